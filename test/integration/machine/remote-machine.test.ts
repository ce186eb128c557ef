/** A machine in another process, as its program sees it: here the other end is a fake in this process. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { resolve } from 'node:path';
import { Duplex } from 'node:stream';
import t from 'tap';
import { AgentBroker } from '../../../src/agent/broker.ts';
import { AgentClient } from '../../../src/agent/client.ts';
import { PeerError, UsageError } from '../../../src/host/errors.ts';
import { connectMachine } from '../../../src/machine/control/remote-machine.ts';
import { ControlServer, controlSocket } from '../../../src/machine/control/server.ts';
import { Machine } from '../../../src/machine/machine.ts';
import { VirtualMachine } from '../../../src/machine/virtual-machine.ts';
import { FakeVm, until } from '../../support/fakes/machine.ts';
import { startAgent } from '../../support/rigs/agent.ts';
import { testFolder } from '../../support/rigs/files.ts';

process.env.XDG_RUNTIME_DIR = testFolder(t);

t.test('orders and questions', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  await using remote = await connectMachine('web');
  t.ok(remote instanceof Machine && remote instanceof VirtualMachine);
  t.equal(remote.state, 'running');
  t.same([...remote.datapaths], [['net0', 'userspace']]);
  await remote.moveDatapath('net0', 'vhost');
  t.same([...remote.datapaths], [['net0', 'vhost']]);
  await remote.pause();
  t.equal(remote.state, 'paused');
  await remote.resume();
  await remote.setLink('net0', false);
  t.same(vm.links, ['net0 false']);
  await remote.holdQueue('net0', '1');
  await remote.stepQueue('net0', '1');
  await remote.releaseQueue('net0', '1');
  await remote.reloadDevice('own0');
  await remote.resizeDisk('blk0', 2 ** 40);
  await remote.resizeDisk('blk0');
  t.same(vm.queueCalls.splice(4), [`resize blk0 ${2 ** 40}`, 'resize blk0 undefined']);
  t.equal(await remote.addDevice({ disks: [{ path: 'data.raw' }], transport: 'pci' }), 'blk1');
  await remote.setCpus(4);
  await remote.setCpus(2, { timeout: 1 });
  t.same(vm.queueCalls.splice(4 + 1), ['cpus 4 undefined', 'cpus 2 1']);
  await remote.removeDevice('blk1');
  await remote.removeDevice('blk1', { surprise: true, timeout: 0 });
  t.same(vm.queueCalls.splice(4), [
    `add ${JSON.stringify({ disks: [{ path: resolve('data.raw') }], transport: 'pci' })}`,
    'remove blk1 undefined undefined',
    'remove blk1 true 0',
  ]);
  t.same(vm.queueCalls, ['hold net0 1', 'step net0 1', 'release net0 1', 'reload own0']);
  remote.resizeConsole(80, 24);
  await until(() => vm.queueCalls.length === 5);
  t.equal(vm.queueCalls[4], 'resize 80 24');
  t.same(await remote.inspect({ device: 'net0' }), {
    state: 'running',
    devices: [],
    functions: [],
  });
  t.same(await remote.metrics(), await vm.metrics());
  t.equal(await remote.traceSummary(), undefined);
  await remote.stop();
  t.equal(remote.state, 'ended');
});

t.test('the memory', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  await using remote = await connectMachine('web');
  t.same(remote.memory, vm.memory);
  await remote.setMemory(2 ** 31);
  t.equal(vm.memory.target, 2 ** 31);
  t.equal(remote.memory.target, 2 ** 31);
});

t.test('the balloon', async (t) => {
  const vm = new FakeVm();
  vm.kept = { target: 2 ** 29, current: 2 ** 29 };
  using _server = await ControlServer.open(vm, 'web');
  await using remote = await connectMachine('web');
  t.same(remote.balloon.state, vm.kept);
  await remote.balloon.setTarget(2 ** 28);
  t.equal(vm.kept.target, 2 ** 28);
  t.equal(remote.balloon.target, 2 ** 28);
  t.same(await remote.balloon.statistics(), await vm.balloon.statistics());
  remote.balloon.target = 2 ** 27;
  await until(() => vm.kept?.target === 2 ** 27);
  vm.balloon.setTarget = async () => {
    throw new UsageError('E_BALLOON', 'burst');
  };
  const logged = once(remote, 'log');
  remote.balloon.target = 0;
  t.same(await logged, ['web: burst']);
});

t.test('its errors are of their class', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  await using remote = await connectMachine('web');
  const refused = await remote.moveDatapath('net9', 'vhost').catch((error: unknown) => error);
  t.ok(refused instanceof UsageError);
  t.match(refused, { code: 'E_DEVICE', message: 'web: no net9' });
  vm.pause = async () => {
    throw new PeerError('E_GUEST_ENDED', 'gone');
  };
  const broken = await remote.pause().catch((error: unknown) => error);
  t.ok(broken instanceof PeerError);
  vm.pause = async () => {
    throw new TypeError('x is not a function');
  };
  await t.rejects(remote.pause(), { name: 'InternalError', code: 'E_INTERNAL' });
  await t.rejects(connectMachine('nobody'), { name: 'UsageError', code: 'E_NAME' });
});

t.test('events, up to the exit', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  await using remote = await connectMachine('web');
  const seen: unknown[] = [];
  for (const event of ['log', 'reboot', 'state', 'exit'] as const) {
    remote.on(event, (...values: unknown[]) => seen.push([event, ...values]));
  }
  vm.emit('log', 'one\x1b[2J');
  vm.emit('reboot');
  const breach = { device: 'blk0', queue: 0, side: 'driver', text: 'x', dump: [] } as const;
  vm.emit('breach', breach as never);
  vm.state = 'ended';
  vm.emit('state', 'ended');
  vm.emit('exit', { reason: 'panic', detail: 'oops' });
  t.same(await remote.wait(), { reason: 'panic', detail: 'oops' });
  t.same(seen, [
    ['log', 'one\\x1b[2J'],
    ['reboot'],
    ['state', 'ended'],
    ['exit', { reason: 'panic', detail: 'oops' }],
  ]);
  t.same(remote.breaches, [breach]);
  t.equal(remote.state, 'ended');
  await t.rejects(remote.exec(['true']), { code: 'E_STATE' });
});

t.test('a machine whose process ends', async (t) => {
  const server = await ControlServer.open(new FakeVm(), 'web');
  await using remote = await connectMachine('web');
  const exits: unknown[] = [];
  remote.on('exit', (exit) => exits.push(exit));
  server.close();
  t.match(await remote.wait(), { reason: 'internal-error', detail: /process of web ended/ });
  t.equal(exits.length, 1);
  t.equal(remote.state, 'ended');
});

t.test('letting go leaves the machine as it is', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  const remote = await connectMachine('web');
  await remote.close();
  t.equal(vm.state, 'running');
  t.equal(remote.state, 'disposed');
  t.equal((await remote.wait()).reason, 'stopped');
  await until(() => vm.listenerCount('log') === 0);
});

t.test('consoles: every client has a copy, and may type', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  await using one = await connectMachine('web');
  await using two = await connectMachine('web');
  let output = '';
  one.serial.on('data', (bytes: Buffer) => {
    output += bytes.toString();
  });
  two.serial.resume();
  await until(() => vm.watchers.size === 2);
  vm.print('serial', 'hello');
  vm.print('console', 'elsewhere');
  await until(() => output === 'hello');
  two.serial.write('typed');
  await until(() => vm.serial.typed === 'typed');
  two.serial.destroy();
  await until(() => vm.watchers.size === 1);
  vm.print('serial', ' world');
  await until(() => output === 'hello world');
  t.equal(vm.console.typed, '');
});

t.test('a client that does not read loses output, not the guest', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  const socket = connect(controlSocket('web'));
  socket.write('{"call":"open","stream":"console"}\n');
  await until(() => vm.watchers.size === 1);
  const piece = 'x'.repeat(65_536);
  for (let i = 0; i < 160; i++) {
    vm.print('console', piece);
    await new Promise((resolve) => setImmediate(resolve));
  }
  let text = '';
  socket.on('data', (bytes: Buffer) => {
    text += bytes.toString('latin1');
  });
  await until(() => /bytes of console output dropped/.test(text));
  t.ok(text.length < 160 * piece.length);
  socket.destroy();
});

t.test('a client that does not read events is let go', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  const socket = connect(controlSocket('web'));
  socket.write('{"call":"open","stream":"events"}\n');
  await until(() => vm.listenerCount('log') === 1);
  const line = 'x'.repeat(65_536);
  while (vm.listenerCount('log') > 0) {
    vm.emit('log', line);
    await new Promise((resolve) => setImmediate(resolve));
  }
  socket.resume();
  await once(socket, 'close');
  t.ok(socket.closed);
});

t.test('commands in its guest, for several clients', async (t) => {
  const { stream } = await startAgent();
  using agent = new AgentClient(stream);
  const broker = new AgentBroker(agent, new PeerError('E_GUEST_ENDED', 'stopped'));
  const vm = new FakeVm();
  vm.shareAgent = (client: Duplex) => broker.serve(client);
  using _server = await ControlServer.open(vm, 'web');
  await using one = await connectMachine('web');
  await using two = await connectMachine('web');
  await one.ready();
  const [a, b] = await Promise.all([one.exec(['echo', 'one']), two.exec(['sh', '-c', 'exit 3'])]);
  t.equal(a.stdout.toString(), 'one\n');
  t.equal(b.exitCode, 3);
  const cut = two.exec(['sleep', '60']);
  agent.close(new PeerError('E_GUEST_ENDED', 'the guest powered off'));
  await t.rejects(cut, { code: 'E_GUEST_ENDED', message: /powered off/ });
});

t.test('connections to vsock ports of its guest', async (t) => {
  const vm = new FakeVm();
  vm.ports.set(52, () => {
    const echo = new Duplex({
      read() {},
      write(chunk: Buffer, _encoding, done) {
        this.push(chunk);
        done();
      },
      final(done) {
        this.push(null);
        done();
      },
    });
    setImmediate(() => echo.emit('connect'));
    return echo;
  });
  using _server = await ControlServer.open(vm, 'web');
  await using remote = await connectMachine('web');
  const stream = remote.connect(52);
  await once(stream, 'connect');
  stream.write('there and back');
  t.equal(String((await once(stream, 'data'))[0]), 'there and back');
  stream.end();
  await once(stream, 'close');
  const [refused] = await once(remote.connect(53), 'error');
  t.equal(refused.code, 'ECONNREFUSED');
});
