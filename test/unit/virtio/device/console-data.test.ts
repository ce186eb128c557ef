/** Console device: bytes in and out of ports (virtio 1.3 §5.3.6), and what hostile drivers try. */
import t from 'tap';
import * as abi from '../../../../src/abi/virtio-console.ts';
import {
  featureSet,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
} from '../../../../src/abi/virtio-ring.ts';
import {
  BASE,
  ConsoleRig,
  drain,
  MULTIPORT,
  PORT_RX,
  PORT_TX,
  RX,
  TX,
} from '../../../support/rigs/console.ts';

for (const [format, ring] of [
  ['split', 0n],
  ['packed', featureSet(VIRTIO_F_RING_PACKED)],
] as const) {
  t.test(`virtio 1.3 §5.3.6 output comes out in order, chains are used (${format})`, async (t) => {
    using c = new ConsoleRig(MULTIPORT | ring).start();
    c.print(TX, 'one ', 'two ');
    c.print(TX, 'three');
    t.equal(drain(c.console), 'one two three');
    t.same(
      c.rig
        .queue(TX)
        .completed()
        .map(({ written }) => written),
      [0, 0],
    );
  });

  t.test(
    `virtio 1.3 §5.3.6 input fills the buffers that the driver posted (${format})`,
    async (t) => {
      using c = new ConsoleRig(MULTIPORT | ring).start();
      c.post(RX, 4, 4, 4);
      c.console.write('abcdef');
      t.same(c.received(RX), ['abcd', 'ef']);
      t.equal(c.rig.interrupts(RX), 1, 'one interrupt for both');
      c.console.write('g');
      t.same(c.received(RX), ['g']);
    },
  );
}

t.test('virtio 1.3 §5.3.2 without MULTIPORT the console works with two queues', async (t) => {
  using c = new ConsoleRig(BASE).start(2);
  c.post(RX, 16);
  c.console.write('in');
  c.print(TX, 'out');
  t.same(c.received(RX), ['in']);
  t.equal(drain(c.console), 'out');
});

t.test('input waits for buffers, and for a driver', async (t) => {
  using c = new ConsoleRig();
  c.console.write('before');
  c.start();
  t.equal(c.console.waiting, 6);
  c.post(RX, 4);
  t.same(c.received(RX), ['befo']);
  c.post(RX, 4);
  t.same(c.received(RX), ['re']);
});

t.test('virtio 1.3 §5.3.6.2 input of a port waits until the guest has it open', async (t) => {
  using c = new ConsoleRig().start();
  c.post(PORT_RX, 16);
  c.port.write('hello');
  t.same(c.received(PORT_RX), []);
  c.openPort();
  t.same(c.received(PORT_RX), ['hello']);
});

t.test('virtio 1.3 §5.3.6.2 input for a port that the guest closed is dropped', async (t) => {
  using c = new ConsoleRig().start();
  c.openPort();
  c.port.write('not read');
  c.sendControl(1, abi.VIRTIO_CONSOLE_PORT_OPEN, 0);
  t.equal(c.port.waiting, 0);
  c.port.write('for the next one');
  c.sendControl(1, abi.VIRTIO_CONSOLE_PORT_OPEN, 1);
  c.post(PORT_RX, 64);
  t.same(c.received(PORT_RX), ['for the next one']);
});

t.test('many writes arrive complete and in order', async (t) => {
  using c = new ConsoleRig().start();
  c.openPort();
  let sent = '';
  for (let i = 0; i < 200; i++) {
    const text = `${i} ${'x'.repeat(i % 50)};`;
    sent += text;
    c.port.write(text);
  }
  let got = '';
  for (let i = 0; i < 2000 && got.length < sent.length; i++) {
    c.post(PORT_RX, 7, 32);
    got += c.received(PORT_RX).join('');
    await new Promise((done) => setImmediate(done));
  }
  t.equal(got, sent);
});

/** Prints numbered lines through one port until `total` bytes were queued by the guest. */
function printUntil(c: ConsoleRig, queueIndex: number, total: number, size: number): string {
  let sent = '';
  while (sent.length < total) {
    const queue = c.rig.queue(queueIndex);
    queue.completed();
    if (queue.free === 0) return sent;
    const text = `${sent.length}:`.padEnd(size, '.');
    sent += text;
    c.print(queueIndex, text);
  }
  return sent;
}

t.test('output of a port that is not read holds the chains back', async (t) => {
  using c = new ConsoleRig().start();
  const sent = printUntil(c, PORT_TX, 2 ** 20, 4096);
  t.ok(sent.length < 2 ** 20, 'the guest had to stop');
  t.ok(c.rig.queue(PORT_TX).inFlight > 0);
  t.ok(c.port.readableLength <= 128 * 1024, 'the host keeps little');
  let got = '';
  for (let i = 0; i < 100 && got.length < sent.length; i++) {
    got += drain(c.port);
    c.rig.pump();
  }
  t.ok(got === sent, `nothing is lost: ${got.length} of ${sent.length} bytes`);
  c.rig.queue(PORT_TX).completed();
  t.equal(c.rig.queue(PORT_TX).inFlight, 0);
  t.equal(c.port.dropped, 0);
});

t.test('a long chain of a port is delivered in pieces, as it is read', async (t) => {
  using c = new ConsoleRig().start();
  const parts = Array.from({ length: 10 }, (_, i) => Buffer.alloc(50_000, 0x41 + i));
  c.print(PORT_TX, ...parts);
  t.equal(c.rig.queue(PORT_TX).completed().length, 0, 'still held');
  let got = '';
  for (let i = 0; i < 100 && got.length < 500_000; i++) {
    got += drain(c.port);
    c.rig.pump();
  }
  t.ok(got === Buffer.concat(parts).toString('latin1'), `${got.length} bytes`);
  t.equal(c.rig.queue(PORT_TX).completed().length, 1);
});

t.test('an unread console uses each buffer at once', async (t) => {
  using c = new ConsoleRig().start();
  let drops = 0;
  c.console.dropping = () => drops++;
  const sent = printUntil(c, TX, 3 * 2 ** 20, 4096);
  c.rig.queue(TX).completed();
  t.equal(c.rig.queue(TX).inFlight, 0, 'no guest would spin');
  t.equal(sent.length, 3 * 2 ** 20);
  t.equal(drops, 1, 'reported once');
  t.ok(c.console.readableLength <= 128 * 1024, 'the host keeps little in addition to the backlog');
  const { dropped } = c.console;
  const got = drain(c.console);
  const notice = `\r\n[${dropped} bytes of console output dropped]\r\n`;
  t.ok(got.endsWith(notice), 'the gap is marked in its place');
  const kept = got.slice(0, -notice.length);
  t.ok(kept.length >= 2 ** 20 && sent.startsWith(kept), 'the oldest is kept, in order');
  t.equal(kept.length + dropped, sent.length, 'and the rest is counted');
});

t.test('a console that is read again continues after the gap', async (t) => {
  using c = new ConsoleRig().start();
  const first = printUntil(c, TX, 3 * 2 ** 20, 4096);
  const { dropped } = c.console;
  // The reader takes some: there is room, and what is printed now comes after the notice.
  let got = '';
  while (got.length < 2 ** 20) got += (c.console.read() as Buffer).toString('latin1');
  c.print(TX, 'after the gap');
  got += drain(c.console);
  const notice = `\r\n[${dropped} bytes of console output dropped]\r\n`;
  t.equal(c.console.dropped, dropped, 'nothing more was lost');
  t.ok(got.endsWith(`${notice}after the gap`));
  t.ok(first.startsWith(got.slice(0, -`${notice}after the gap`.length)));
  c.print(TX, 'and on');
  t.equal(drain(c.console), 'and on');
});

t.test('a reader that always lags behind gets few notices', async (t) => {
  using c = new ConsoleRig().start();
  printUntil(c, TX, 3 * 2 ** 20, 4096);
  let got = '';
  for (let i = 0; i < 4096; i++) {
    got += (c.console.read(512) as Buffer).toString('latin1');
    c.print(TX, 'x'.repeat(1024));
    c.rig.queue(TX).completed();
  }
  const notices = got.split('bytes of console output dropped').length - 1;
  t.ok(notices <= 4, `${notices} in ${got.length} bytes`);
});

t.test('a console that is paused in the middle of its flow holds no buffer', async (t) => {
  using c = new ConsoleRig().start();
  let got = '';
  c.console.on('data', (bytes: Buffer) => {
    got += bytes.toString('latin1');
  });
  await new Promise((done) => setImmediate(done));
  c.console.pause();
  const sent = printUntil(c, TX, 512 * 1024, 64);
  c.rig.queue(TX).completed();
  t.equal(c.rig.queue(TX).inFlight, 0);
  t.equal(got, '');
  c.console.resume();
  while (got.length < sent.length) await new Promise((done) => setImmediate(done));
  t.ok(got === sent, 'below the bound nothing is lost');
  t.equal(c.console.dropped, 0);
});

t.test('a consumer that has the guest print from within its own reading', async (t) => {
  using c = new ConsoleRig().start();
  printUntil(c, TX, 200 * 1024, 4096);
  let got = '';
  let nested = 0;
  c.console.on('data', (bytes: Buffer) => {
    got += bytes.toString('latin1');
    if (nested < 8) c.print(TX, `<${nested++}>`);
  });
  while (!got.includes('<7>')) await new Promise((done) => setImmediate(done));
  t.match(got, /<0>.*<1>.*<2>.*<3>.*<4>.*<5>.*<6>.*<7>/s, 'in the order of printing');
});

for (const [name, features] of [
  ['', MULTIPORT],
  [' with EVENT_IDX', MULTIPORT | featureSet(VIRTIO_F_EVENT_IDX)],
] as const) {
  t.test(`stopping with a held chain loses and doubles nothing${name}`, async (t) => {
    using c = new ConsoleRig(features).start();
    const parts = Array.from({ length: 6 }, (_, i) => Buffer.alloc(50_000, 0x41 + i));
    c.print(PORT_TX, ...parts);
    c.print(PORT_TX, 'the next chain');
    const before = c.rig.interrupts(PORT_TX);
    c.rig.handOver(c.device.createHandler(), features);
    t.equal(
      c.rig.interrupts(PORT_TX),
      before + 1,
      'the driver is notified that the chain was used',
    );
    t.equal(c.rig.queue(PORT_TX).completed().length, 1);
    let got = '';
    for (let i = 0; i < 100; i++) {
      got += drain(c.port);
      c.rig.pump();
    }
    const sent = `${Buffer.concat(parts).toString('latin1')}the next chain`;
    t.ok(got === sent, `${got.length} of ${sent.length} bytes`);
  });
}

t.test('what a consumer writes while it is given output disturbs no chain', async (t) => {
  using c = new ConsoleRig().start();
  c.openPort();
  c.post(PORT_RX, ...new Array<number>(12).fill(16));
  const got: string[] = [];
  c.port.on('data', (bytes: Buffer) => {
    got.push(bytes.toString());
    c.port.write(`<${bytes}>`);
  });
  c.port.resume();
  await new Promise((done) => setImmediate(done));
  for (const text of ['a', 'bb', 'ccc'])
    c.rig.queue(PORT_TX).add({ readable: [Buffer.from(text)] });
  c.rig.kick(PORT_TX);
  for (let i = 0; i < 10; i++) c.rig.pump();
  await new Promise((done) => setImmediate(done));
  t.same(got, ['a', 'bb', 'ccc']);
  t.equal(c.received(PORT_RX).join(''), '<a><bb><ccc>');
  t.equal(c.rig.queue(PORT_TX).completed().length, 3);
});

/** A chain of `count` segments of 60 MiB each, all the same ones. */
function printHuge(c: ConsoleRig, count: number, queueIndex = TX): void {
  const queue = c.rig.queue(queueIndex);
  const readable = Array.from({ length: count }, () => new Uint8Array(16));
  queue.add({ readable, indirect: false });
  for (let i = 0; i < count; i++) {
    queue.descriptorArea.setBigUint64(16 * i, 0n, true);
    queue.descriptorArea.setUint32(16 * i + 8, 60 * 2 ** 20, true);
  }
  c.rig.kick(queueIndex);
}

t.test('a chain of gigabytes yields to others while it is read, and continues', async (t) => {
  using c = new ConsoleRig().start();
  let got = 0;
  c.console.on('data', (bytes: Buffer) => {
    got += bytes.length;
  });
  await new Promise((done) => setImmediate(done));
  printHuge(c, 1);
  t.equal(got, 64 * 65536);
  t.ok(c.rig.pump() > 0, 'it requested another turn');
  t.equal(got, 128 * 65536);
  while (c.rig.pump() > 0);
  t.equal(got, 60 * 2 ** 20);
  t.equal(c.rig.queue(TX).completed().length, 1);
});

t.test('§5.3.6.1 chains of the wrong direction are used, without data', async (t) => {
  using c = new ConsoleRig().start();
  c.rig.queue(TX).add({ writable: [64] });
  c.rig.kick(TX);
  c.print(TX, 'after');
  t.same(
    c.rig
      .queue(TX)
      .completed()
      .map(({ written }) => written),
    [0, 0],
  );
  c.rig.queue(RX).add({ readable: [Buffer.from('x')] });
  c.post(RX, 8);
  c.console.write('input');
  t.same(c.received(RX), ['', 'input']);
  t.equal(drain(c.console), 'after');
  t.equal(c.rig.brokenReason, undefined);
});

t.test('§2.7.5 a chain without bytes is used', async (t) => {
  using c = new ConsoleRig().start();
  const queue = c.rig.queue(TX);
  queue.add({ readable: [Buffer.from('x')] });
  queue.descriptorArea.setUint32(8, 0, true);
  c.rig.kick(TX);
  t.equal(queue.completed().length, 1);
  t.equal(drain(c.console), '');
});

t.test('a chain that claims gigabytes costs the host little', async (t) => {
  using c = new ConsoleRig().start();
  printHuge(c, 8, PORT_TX);
  t.ok(c.port.readableLength <= 128 * 1024);
  printHuge(c, 8);
  t.ok(c.console.readableLength <= 128 * 1024);
  c.rig.stop();
  t.ok(c.port.readableLength <= 2 * 2 ** 20, 'even when it is stopped');
  t.ok(c.console.readableLength <= 2 * 2 ** 20);
});

t.test('§2.7.13 a broken queue breaks the device, which then rests', async (t) => {
  using c = new ConsoleRig().start();
  c.rig.queue(TX).driverArea.setUint16(2, 1000, true);
  c.rig.notify(TX);
  t.match(c.rig.brokenReason, /queue 1: .*§2\.7\.13/);
  c.post(RX, 16);
  c.console.write('more');
  t.same(c.received(RX), [], 'no other queue is touched any more');
});

t.test('a stream that was destroyed swallows what the guest prints', async (t) => {
  using c = new ConsoleRig().start();
  c.console.destroy();
  for (let i = 0; i < 40; i++) {
    c.print(TX, Buffer.alloc(4096));
    t.equal(c.rig.queue(TX).completed().length, 1);
  }
});

t.test('a driver that has slept keeps its ports and their input', async (t) => {
  using c = new ConsoleRig().start();
  c.openPort();
  c.port.write('one conversation');
  c.rig.stop();
  c.device.reset();
  t.equal(c.port.guestOpen, true);
  c.start();
  c.post(PORT_RX, 64);
  t.same(c.received(PORT_RX), ['one conversation']);
});

for (const [name, gone] of [
  [
    'a driver that was just loaded',
    (c) => c.sendControl(0xffff_ffff, abi.VIRTIO_CONSOLE_DEVICE_READY, 1),
  ],
  ['the end of the guest', (c) => c.device.closePorts()],
] as const satisfies readonly (readonly [string, (c: ConsoleRig) => void])[]) {
  t.test(`${name} forgets input of ports, and keeps that of the console`, async (t) => {
    using c = new ConsoleRig().start();
    c.openPort();
    c.port.write('old conversation');
    c.console.write('typed ahead');
    c.rig.stop();
    c.device.reset();
    c.start();
    gone(c);
    t.equal(c.port.waiting, 0);
    t.equal(c.port.guestOpen, false);
    c.post(RX, 64);
    t.same(c.received(RX), ['typed ahead']);
  });
}

t.test('closing ends the streams', async (t) => {
  const c = new ConsoleRig().start();
  c.console.resume();
  const ended = new Promise((done) => c.console.on('close', done));
  c[Symbol.dispose]();
  await ended;
  t.equal(c.console.destroyed, true);
});
