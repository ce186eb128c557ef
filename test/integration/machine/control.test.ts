/** Orders to a machine in another process, over its socket. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { Readable } from 'node:stream';
import { mock } from 'node:test';
import fc from 'fast-check';
import t from 'tap';

import { defer } from '../../../src/agent/command.ts';
import { UsageError } from '../../../src/host/errors.ts';
import {
  ask,
  askInspection,
  listMachines,
  onlyMachine,
} from '../../../src/machine/control/client.ts';
import {
  KEEP_ALIVE_MS,
  LINE_MAX,
  linesOf,
  parseRequest,
  SILENCE_MS,
} from '../../../src/machine/control/protocol.ts';
import { ControlServer, controlSocket } from '../../../src/machine/control/server.ts';
import type { DatapathName } from '../../../src/machine/devices/queue-service.ts';
import type { MachineState } from '../../../src/machine/machine.ts';
import { FakeVm } from '../../support/fakes/machine.ts';
import { testFolder } from '../../support/rigs/files.ts';

const folder = testFolder(t);
process.env.XDG_RUNTIME_DIR = folder;

t.test('a machine executes requests, and answers with its state', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  t.equal(statSync(`${folder}/nodevmm`).mode & 0o777, 0o700, 'for its user only');
  const droppedOutput = { console: 0, serial: 0 };
  const statistics = { exits: 12, halt_exits: 7, nmi_injections: 0 };
  const status = {
    pid: process.pid,
    name: 'web',
    state: 'running',
    memory: vm.memory,
    exits: 3,
    statistics,
    droppedOutput,
  };
  const places = (net0: DatapathName) => ({ ...status, datapaths: { net0 } });
  t.same(await ask('web', { call: 'status' }), places('userspace'));
  const move = { call: 'move', device: 'net0', datapath: 'vhost' } as const;
  t.same(await ask('web', move), places('vhost'));
  await ask('web', { call: 'link', device: 'net0', up: false });
  t.same(vm.links, ['net0 false']);
  await ask('web', { call: 'step', device: 'net0', queue: '1' });
  t.same(vm.queueCalls, ['step net0 1']);
  t.equal((await ask('web', { call: 'pause' })).state, 'paused');
  t.same(await askInspection('web', { device: 'net0' }), {
    state: 'paused',
    devices: [],
    functions: [],
  });
  t.same(vm.filters, [{ call: 'inspect', device: 'net0' }]);
  t.equal((await ask('web', { call: 'resume' })).state, 'running');
  await t.rejects(ask('web', { ...move, device: 'net9' }), {
    code: 'E_DEVICE',
    message: 'web: no net9',
  });
});

t.test('machines are found by name, or alone', async (t) => {
  await t.rejects(onlyMachine(), { code: 'E_NAME', message: /no machine is running/ });
  await t.rejects(ask('web', { call: 'status' }), { code: 'E_NAME', message: /no machine named/ });
  using _a = await ControlServer.open(new FakeVm(), 'a');
  t.equal(await onlyMachine(), 'a');
  using _b = await ControlServer.open(new FakeVm(), 'b');
  t.same(
    (await listMachines()).map(({ name }) => name),
    ['a', 'b'],
  );
  await t.rejects(onlyMachine(), { code: 'E_NAME', message: /--vm: a, b$/ });
  await t.rejects(ControlServer.open(new FakeVm(), 'a'), {
    code: 'E_NAME',
    message: /is already running/,
  });
  for (const name of ['', '../x', 'a b', 'x'.repeat(41)]) {
    t.throws(() => controlSocket(name), { code: 'E_NAME' }, JSON.stringify(name));
  }
});

t.test('a socket that a dead machine left is replaced, ours is removed', async (t) => {
  for (const name of ['old', 'older']) leaveSocket(controlSocket(name));
  writeFileSync(controlSocket('file'), '');
  {
    using _server = await ControlServer.open(new FakeVm(), 'old');
    t.equal(statSync(controlSocket('old')).mode & 0o777, 0o600);
    t.equal((await ask('old', { call: 'status' })).name, 'old');
    t.notOk(existsSync(controlSocket('older')), 'so is that of another machine');
  }
  t.notOk(existsSync(controlSocket('old')));
  t.ok(existsSync(controlSocket('file')), 'what is no socket stays');
  await t.rejects(ControlServer.open(new FakeVm(), 'file'), {
    message: /not a socket exists there/,
  });
});

/** Leaves a socket as a process that is killed does. */
function leaveSocket(file: string): void {
  const script = `require('node:net').createServer().listen(${JSON.stringify(file)}, () =>
    process.kill(process.pid, 'SIGKILL'))`;
  spawnSync(process.execPath, ['-e', script]);
}

t.test('what is no request is refused, and a line without end cut off', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  const socket = connect(controlSocket('web'));
  const replies: string[] = [];
  socket.setEncoding('utf8').on('data', (text: string) => replies.push(text));
  socket.write('{"call":"explode"}\nnonsense\n');
  while (replies.join('').split('\n').length < 3) await new Promise((done) => setTimeout(done, 1));
  t.match(replies.join(''), /not a request of this version.*\n.*one line with a JSON object/);
  socket.on('error', () => {});
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.write('x'.repeat(LINE_MAX + 1));
  await closed;
  t.equal((await ask('web', { call: 'status' })).state, 'running');
});

const CALLS = [
  ...['status', 'pause', 'resume', 'stop', 'move', 'link'],
  ...['hold', 'step', 'release', 'inspect'],
];

t.test('any line is a request or an error', (t) => {
  const value = fc.oneof(fc.string(), fc.boolean(), fc.constant('net0'), fc.constant('vhost'));
  const call = fc.constantFrom(...CALLS, '__proto__', 1, null);
  const record = fc.record(
    { call, device: value, datapath: value, up: value, queue: value },
    { requiredKeys: ['call'] },
  );
  const line = fc.oneof(
    fc.string(),
    fc.json(),
    record.map((object) => JSON.stringify(object)),
  );
  fc.assert(
    fc.property(line, (text) => {
      try {
        const request = parseRequest(text);
        const texts = ['device', 'queue'].map((key) => (request as Record<string, unknown>)[key]);
        const sound = texts.every((text) => text === undefined || typeof text === 'string');
        return sound && CALLS.includes(request.call);
      } catch (error) {
        return error instanceof UsageError;
      }
    }),
  );
  t.end();
});

t.test('a client that does not read its answers is not served further', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  const other = connect(controlSocket('web'));
  const socket = connect(controlSocket('web'));
  const line = `${JSON.stringify({ call: 'inspect', device: 'x'.repeat(1000) })}\n`;
  const lines = 20_000;
  socket.pause();
  socket.write(line.repeat(lines));
  // What the sockets hold comes first; then nothing moves any more.
  let asked = -1;
  while (asked !== vm.filters.length) {
    asked = vm.filters.length;
    for (let i = 0; i < 20; i++) {
      other.write('{"call":"status"}\n');
      await new Promise((resolve) => other.once('data', resolve));
    }
  }
  t.ok(asked < lines, `${asked} of ${lines} lines were answered`);
  let answers = 0;
  socket.setEncoding('utf8').on('data', (text: string) => {
    answers += text.split('\n').length - 1;
  });
  socket.resume();
  while (answers < lines) await new Promise((resolve) => socket.once('data', resolve));
  t.equal(vm.filters.length, lines, 'and is served again when it does');
  socket.destroy();
  other.destroy();
});

t.test('lines, however the stream is cut', async (t) => {
  const texts = fc.array(fc.string({ unit: 'grapheme', maxLength: 20 }).map(noBreaks));
  await fc.assert(
    fc.asyncProperty(texts, fc.integer({ min: 1, max: 7 }), async (sent, size) => {
      const bytes = Buffer.from(`${sent.map((text) => `${text}\n`).join('')}rest`);
      const pieces: Buffer[] = [];
      for (let at = 0; at < bytes.length; at += size) pieces.push(bytes.subarray(at, at + size));
      const got: string[] = [];
      for await (const line of linesOf(Readable.from(pieces, { objectMode: false }), 100)) {
        got.push(line);
      }
      return JSON.stringify(got) === JSON.stringify(sent);
    }),
  );
  const long = linesOf(Readable.from([Buffer.alloc(60, 'x'), Buffer.alloc(60, 'x')]), 100).next();
  await t.rejects(long, { code: 'E_CONTROL' });
});

function noBreaks(text: string): string {
  return text.replaceAll('\n', ' ');
}

t.test('what a machine reports is printable text', async (t) => {
  const vm = new FakeVm();
  vm.state = '\x1b]0;title\x07\u202e' as MachineState;
  using _server = await ControlServer.open(vm, 'evil');
  t.equal((await ask('evil', { call: 'status' })).state, '\\x1b]0;title\\x07\\u{202e}');
  t.equal((await askInspection('evil', {})).state, '\\x1b]0;title\\x07\\u{202e}');
  const order = { call: 'move', device: '\x9b2J', datapath: 'vhost' } as const;
  await t.rejects(ask('evil', order), { message: 'evil: no \\x9b2J' });
});

t.test(
  'an answer may take long from a machine that works on it, not from one that hangs',
  async (t) => {
    mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
    t.teardown(() => mock.timers.reset());
    const vm = new FakeVm();
    const start = defer<void>();
    vm.start = () => start.promise;
    using server = await ControlServer.open(vm, 'slow');
    const started = ask('slow', { call: 'start' });
    // A request on another connection has sockets and timers take turns.
    const turn = async (milliseconds: number): Promise<void> => {
      await ask('slow', { call: 'status' });
      mock.timers.tick(milliseconds);
      await ask('slow', { call: 'status' });
    };
    for (let passed = 0; passed < 10 * SILENCE_MS; passed += KEEP_ALIVE_MS)
      await turn(KEEP_ALIVE_MS);
    start.resolve();
    t.equal((await started).state, 'running');
    server.close();

    await using silent = createServer(() => {}).listen(controlSocket('silent'));
    await once(silent, 'listening');
    const asked = t.rejects(ask('silent', { call: 'start' }), {
      message: 'silent does not answer: no answer',
    });
    await once(silent, 'connection');
    mock.timers.tick(SILENCE_MS);
    await asked;
  },
);
