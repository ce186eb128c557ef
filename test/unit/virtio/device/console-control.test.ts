/** Console device: control queues, size and emergency write (virtio 1.3 §5.3.4 to §5.3.6). */
import t from 'tap';
import * as abi from '../../../../src/abi/virtio-console.ts';
import { BASE, CONTROL_RX, CONTROL_TX, ConsoleRig, drain } from '../../../support/rigs/console.ts';

const ANY = 0xffff_ffff;
const brief = (
  messages: readonly { id: number; event: number; value: number }[],
): (readonly [number, number, number])[] =>
  messages.map(({ id, event, value }) => [id, event, value] as const);

t.test('virtio 1.3 §5.3.4 the configuration holds size and number of ports', async (t) => {
  using c = new ConsoleRig();
  const config = abi.virtio_console_config;
  t.equal(c.config.getUint16(config.cols.offset, true), 80);
  t.equal(c.config.getUint16(config.rows.offset, true), 25);
  t.equal(c.config.getUint32(config.max_nr_ports.offset, true), 2);
  t.same(
    [...c.device.configWriteMask],
    [0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255],
    'only emerg_wr is writable',
  );
});

t.test('virtio 1.3 §5.3.2 control queues follow those of port 0', async (t) => {
  using c = new ConsoleRig();
  t.same(
    c.device.queues.map(({ name }) => name),
    ['receive 0', 'transmit 0', 'control receive', 'control transmit', 'receive 1', 'transmit 1'],
  );
});

t.test('virtio 1.3 §5.3.6.2 DEVICE_READY is answered with the ports', async (t) => {
  using c = new ConsoleRig().start();
  t.same(c.takeControl(), [], 'not before');
  c.sendControl(ANY, abi.VIRTIO_CONSOLE_DEVICE_READY, 1);
  t.same(
    c.takeControl().map(({ id, event }) => [id, event]),
    [
      [0, abi.VIRTIO_CONSOLE_DEVICE_ADD],
      [1, abi.VIRTIO_CONSOLE_DEVICE_ADD],
    ],
  );
});

t.test('virtio 1.3 §5.3.6.2.1 no port that exists is added again', async (t) => {
  using c = new ConsoleRig().start();
  for (let i = 0; i < 3; i++) c.sendControl(ANY, abi.VIRTIO_CONSOLE_DEVICE_READY, 1);
  t.equal(c.takeControl().length, 2);
  c.rig.stop();
  c.start();
  c.sendControl(ANY, abi.VIRTIO_CONSOLE_DEVICE_READY, 1);
  t.equal(c.takeControl().length, 0, 'not after a pause either');
  c.rig.stop();
  c.device.reset();
  c.start();
  c.sendControl(ANY, abi.VIRTIO_CONSOLE_DEVICE_READY, 1);
  t.equal(c.takeControl().length, 2, 'but after a reset');
});

t.test('virtio 1.3 §5.3.6.2 a driver that is not ready gets no ports', async (t) => {
  using c = new ConsoleRig().start();
  c.sendControl(ANY, abi.VIRTIO_CONSOLE_DEVICE_READY, 0);
  t.same(c.takeControl(), []);
});

t.test('virtio 1.3 §5.3.6.2 port 0 is a console, with its size, and open', async (t) => {
  using c = new ConsoleRig().start();
  c.sendControl(0, abi.VIRTIO_CONSOLE_PORT_READY, 1);
  const messages = c.takeControl();
  t.same(brief(messages), [
    [0, abi.VIRTIO_CONSOLE_CONSOLE_PORT, 1],
    [0, abi.VIRTIO_CONSOLE_RESIZE, 0],
    [0, abi.VIRTIO_CONSOLE_PORT_OPEN, 1],
  ]);
  t.same([...(messages[1]?.rest ?? [])], [80, 0, 25, 0], 'columns, then rows');
});

t.test('virtio 1.3 §5.3.6.2 another port has a name, without a NUL, and is open', async (t) => {
  using c = new ConsoleRig().start();
  c.sendControl(1, abi.VIRTIO_CONSOLE_PORT_READY, 1);
  const messages = c.takeControl();
  t.same(brief(messages), [
    [1, abi.VIRTIO_CONSOLE_PORT_NAME, 1],
    [1, abi.VIRTIO_CONSOLE_PORT_OPEN, 1],
  ]);
  t.equal(messages[0]?.rest.toString(), 'org.test.port');
});

t.test('virtio 1.3 §5.3.6.2 a port that failed gets nothing', async (t) => {
  using c = new ConsoleRig().start();
  c.sendControl(1, abi.VIRTIO_CONSOLE_PORT_READY, 0);
  t.same(c.takeControl(), []);
});

t.test('§5.3.6.2 nonsense in the control queue is used and ignored', async (t) => {
  using c = new ConsoleRig().start();
  c.sendControl(2, abi.VIRTIO_CONSOLE_PORT_READY, 1);
  c.sendControl(ANY, abi.VIRTIO_CONSOLE_PORT_OPEN, 1);
  c.sendControl(1, 99, 1);
  c.print(CONTROL_TX, 'short');
  c.rig.queue(CONTROL_TX).add({ writable: [64] });
  c.rig.kick(CONTROL_TX);
  t.equal(c.rig.queue(CONTROL_TX).inFlight - c.rig.queue(CONTROL_TX).completed().length, 0);
  t.same(c.takeControl(), []);
  t.equal(c.rig.brokenReason, undefined);
});

t.test('control messages wait for buffers, in order', async (t) => {
  using c = new ConsoleRig().start();
  c.sendControl(ANY, abi.VIRTIO_CONSOLE_DEVICE_READY, 1);
  c.sendControl(1, abi.VIRTIO_CONSOLE_PORT_READY, 1);
  const events = [1, 1, 1, 1]
    .flatMap((buffers) => c.takeControl(buffers))
    .map(({ event }) => event);
  t.same(events, [
    abi.VIRTIO_CONSOLE_DEVICE_ADD,
    abi.VIRTIO_CONSOLE_DEVICE_ADD,
    abi.VIRTIO_CONSOLE_PORT_NAME,
    abi.VIRTIO_CONSOLE_PORT_OPEN,
  ]);
});

t.test('control messages that wait survive a pause, and not a reset', async (t) => {
  using c = new ConsoleRig().start();
  c.sendControl(ANY, abi.VIRTIO_CONSOLE_DEVICE_READY, 1);
  c.rig.stop();
  c.start();
  t.equal(c.takeControl().length, 2);
  c.sendControl(1, abi.VIRTIO_CONSOLE_PORT_READY, 1);
  c.rig.stop();
  c.device.reset();
  c.start();
  t.equal(c.takeControl().length, 0);
});

t.test('a driver without buffers cannot make the device keep ever more', async (t) => {
  using c = new ConsoleRig().start();
  for (let i = 0; i < 1000; i++) c.sendControl(1, abi.VIRTIO_CONSOLE_PORT_READY, 1);
  let taken = 0;
  for (let got = c.takeControl(16).length; got > 0; got = c.takeControl(16).length) taken += got;
  t.ok(taken > 0 && taken <= 256, `${taken}`);
});

t.test('a message that does not fit its buffer is cut', async (t) => {
  using c = new ConsoleRig().start();
  c.sendControl(1, abi.VIRTIO_CONSOLE_PORT_READY, 1);
  c.post(CONTROL_RX, 4, 10);
  t.same(
    c.received(CONTROL_RX).map((text) => text.length),
    [4, 8],
  );
});

t.test('virtio 1.3 §5.3.6 a resize is in the configuration and in a message', async (t) => {
  using c = new ConsoleRig().start();
  c.device.resize(132, 43);
  t.equal(c.config.getUint16(abi.virtio_console_config.cols.offset, true), 132);
  t.equal(c.config.getUint16(abi.virtio_console_config.rows.offset, true), 43);
  t.equal(c.configChanges, 1);
  const [message] = c.takeControl();
  t.equal(message?.event, abi.VIRTIO_CONSOLE_RESIZE);
  t.same([...(message?.rest ?? [])], [132, 0, 43, 0]);
});

t.test('of many pending resizes, the last counts', async (t) => {
  using c = new ConsoleRig().start();
  for (let columns = 1; columns <= 300; columns++) c.device.resize(columns, 10);
  c.sendControl(1, abi.VIRTIO_CONSOLE_PORT_READY, 1);
  const messages = c.takeControl();
  t.same(
    messages.map(({ event }) => event),
    [abi.VIRTIO_CONSOLE_RESIZE, abi.VIRTIO_CONSOLE_PORT_NAME, abi.VIRTIO_CONSOLE_PORT_OPEN],
  );
  t.equal(messages[0]?.rest.readUInt16LE(0), 300);
});

t.test('virtio 1.3 §5.3.6 without MULTIPORT a resize is a configuration change only', async (t) => {
  using c = new ConsoleRig(BASE).start(2);
  c.device.resize(132, 43);
  t.equal(c.configChanges, 1);
  t.equal(c.rig.brokenReason, undefined);
});

t.test('virtio 1.3 §5.3.5.1 the bytes of emergency writes are output', async (t) => {
  using c = new ConsoleRig();
  t.equal(c.device.emergencyWrite, abi.virtio_console_config.emerg_wr.offset);
  c.device.emergencyWritten(Buffer.from('Hi'));
  c.device.emergencyWritten(Buffer.from('!'));
  t.equal(drain(c.console), 'Hi!');
});

t.test('unread emergency writes are bounded', async (t) => {
  using c = new ConsoleRig();
  const count = 2 ** 21;
  for (let i = 0; i < count; i += 4096) c.device.emergencyWritten(Buffer.alloc(4096, 0x41));
  t.ok(c.console.readableLength <= 64 * 1024);
  const { dropped } = c.console;
  const kept = drain(c.console).match(/^A*/)?.[0].length ?? 0;
  t.ok(kept >= 2 ** 20, 'some of them are kept');
  t.equal(kept + dropped, count);
});
