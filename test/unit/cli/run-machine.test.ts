/** A run from the command line: where bytes go, what ends it, and with which status. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { runMachine } from '../../../src/cli/run/run-machine.ts';
import { PeerError } from '../../../src/host/errors.ts';
import type { MachineExit } from '../../../src/machine/options.ts';
import { FakeMachine, FakeStreams, Sink, until } from '../../support/fakes/machine.ts';

const TTY = { to: 'tty' } as const;
const NONE = { to: 'none' } as const;
const onConsole = { console: TTY, serial: NONE };
const inCommand = { console: NONE, serial: NONE, command: ['uname', '-r'] };

function setUp(): { vm: FakeMachine; streams: FakeStreams } {
  return { vm: new FakeMachine(), streams: new FakeStreams() };
}

t.test('the console both ways, to a clean power-off', async (t) => {
  const { vm, streams } = setUp();
  const run = runMachine(vm, onConsole, streams);
  await vm.started;
  vm.console.push('login: ');
  streams.input.write('root\n');
  await until(() => vm.console.typed === 'root\n' && streams.output.text === 'login: ');
  t.equal(vm.console.typed, 'root\n');
  vm.end({ reason: 'power-off' });
  t.equal(await run, 0);
  t.equal(streams.output.text, 'login: ');
  t.strictSame(vm.calls, ['start'], 'a machine that ended is not stopped');
  t.strictSame(vm.sizes, [[100, 30]], 'and it got the size of the terminal');
});

t.test('a guest that ends before its slow reader has read loses nothing', async (t) => {
  const { vm, streams } = setUp();
  const taken: (() => void)[] = [];
  const output = new (class extends Sink {
    override _write(chunk: Buffer, encoding: BufferEncoding, done: () => void): void {
      taken.push(() => super._write(chunk, encoding, done));
    }
  })({ highWaterMark: 4 });
  const run = runMachine(vm, onConsole, { ...streams, output, size: () => undefined });
  await vm.started;
  const lines = Array.from({ length: 100 }, (_, i) => `line ${i}\n`);
  for (const line of lines) vm.console.push(line);
  await until(() => taken.length > 0);
  vm.end({ reason: 'power-off' });
  t.equal(await run, 0);
  while (output.text.length < lines.join('').length) {
    taken.shift()?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  t.equal(output.text, lines.join(''));
});

t.test('dropped output is reported at the end', async (t) => {
  const { vm, streams } = setUp();
  vm.droppedOutput = { console: 12, serial: 34 };
  vm.end({ reason: 'power-off' });
  t.equal(await runMachine(vm, onConsole, streams), 0);
  t.equal(
    streams.errorOutput.text,
    "nodevmm: 12 bytes of the console's output were dropped\nnodevmm: 34 bytes of the serial port's output were dropped\n",
  );
});

const ENDS: readonly (readonly [MachineExit, number, RegExp])[] = [
  [{ reason: 'power-off' }, 0, /^$/],
  [{ reason: 'reboot' }, 0, /^$/],
  [{ reason: 'stopped' }, 0, /^$/],
  [{ reason: 'panic', detail: 'no init' }, 200, /^nodevmm: the guest ended: panic: no init\n$/],
  [{ reason: 'triple-fault' }, 201, /triple-fault\n$/],
  [{ reason: 'internal-error', detail: 'rip 0' }, 202, /internal-error: rip 0\n$/],
];
for (const [exit, status, message] of ENDS) {
  t.test(`exit status of ${exit.reason}`, async (t) => {
    const { vm, streams } = setUp();
    vm.end(exit);
    t.equal(await runMachine(vm, onConsole, streams), status);
    t.match(streams.errorOutput.text, message);
  });
}

t.test('a guest that died before its console came shows the serial port', async (t) => {
  const { vm, streams } = setUp();
  const run = runMachine(vm, onConsole, streams);
  vm.serial.push('no working init\n');
  await until(() => vm.serial.readableLength === 0);
  vm.end({ reason: 'panic' });
  t.equal(await run, 200);
  t.match(streams.errorOutput.text, /^no working init\nnodevmm: /);
  t.equal(streams.output.text, '');
});

t.test("a guest's output reaches the terminal as text, except on its console", async (t) => {
  const { vm, streams } = setUp();
  const sequence = '\x1b]0;title\x07';
  const run = runMachine(vm, onConsole, streams);
  vm.serial.push(`${sequence} oops\r\n`);
  await until(() => vm.serial.readableLength === 0);
  vm.log(`net0: ${sequence}`);
  vm.end({ reason: 'panic', detail: `no init ${sequence}` });
  t.equal(await run, 200);
  const shown = '\\x1b]0;title\\x07';
  t.equal(
    streams.errorOutput.text,
    `nodevmm: net0: ${shown}\n${shown} oops\nnodevmm: the guest ended: panic: no init ${shown}\n`,
  );
});

t.test('the console itself is passed on as it is', async (t) => {
  const { vm, streams } = setUp();
  const run = runMachine(vm, onConsole, streams);
  vm.console.push('\x1b[1mbold\x1b[0m\r\n');
  await until(() => vm.console.readableLength === 0);
  vm.end({ reason: 'power-off' });
  t.equal(await run, 0);
  t.equal(streams.output.text, '\x1b[1mbold\x1b[0m\r\n');
});

t.test('a console in a file', async (t) => {
  const { vm, streams } = setUp();
  const path = `${t.testdir()}/console.log`;
  const run = runMachine(vm, { console: { to: 'file', path }, serial: NONE }, streams);
  await vm.started;
  vm.console.push('booting\n');
  await until(() => vm.console.readableLength === 0);
  vm.end({ reason: 'power-off' });
  t.equal(await run, 0);
  t.equal(readFileSync(path, 'utf8'), 'booting\n');
});

t.test('a console file that cannot be made', async (t) => {
  const { vm, streams } = setUp();
  const plan = { console: { to: 'file', path: '/nonexistent/x' } as const, serial: NONE };
  await t.rejects(runMachine(vm, plan, streams), {
    name: 'UsageError',
    message: /\/nonexistent\/x/,
  });
  t.strictSame(vm.calls, [], 'the machine never started');
});

t.test('a command: its output, its status, then the end of the machine', async (t) => {
  const { vm, streams } = setUp();
  const run = runMachine(vm, inCommand, streams);
  await vm.started;
  streams.input.end('input');
  await until(() => vm.process.stdin.typed === 'input');
  vm.process.stdout.write('6.12\n');
  vm.process.stderr.write('warning\n');
  vm.console.push('kernel messages');
  vm.process.end({ exitCode: 7 });
  t.equal(await run, 7);
  t.equal(streams.output.text, '6.12\n', 'only what the command wrote');
  t.equal(streams.errorOutput.text, 'warning\n');
  t.equal(vm.process.stdin.typed, 'input');
  t.strictSame(vm.calls, ['start', 'spawn uname -r {}', 'stop']);
});

t.test('a guest that panics under a command', async (t) => {
  const { vm, streams } = setUp();
  const run = runMachine(vm, inCommand, streams);
  await vm.started;
  vm.process.lose(new PeerError('E_AGENT_GONE', 'the agent is gone'));
  vm.end({ reason: 'panic' });
  t.equal(await run, 200);
});

t.test('a guest that powers off under a command', async (t) => {
  const { vm, streams } = setUp();
  vm.end({ reason: 'power-off' });
  t.equal(await runMachine(vm, inCommand, streams), 203);
  t.match(streams.errorOutput.text, /before the command uname did/);
});

t.test('a machine that is stopped under a command: as after SIGTERM', async (t) => {
  const { vm, streams } = setUp();
  const run = runMachine(vm, inCommand, streams);
  await vm.started;
  vm.process.lose(new PeerError('E_GUEST_ENDED', 'the machine was stopped'));
  // Closing a machine may take its time.
  setTimeout(() => vm.end({ reason: 'stopped' }), 2500);
  t.equal(await run, 128 + 15);
  t.equal(
    streams.errorOutput.text,
    'nodevmm: the machine was stopped before the command uname had ended\n',
  );
});

t.test('a machine that is shut down by its power button under a command: alike', async (t) => {
  const { vm, streams } = setUp();
  vm.end({ reason: 'power-off', asked: true });
  t.equal(await runMachine(vm, inCommand, streams), 128 + 15);
  t.match(streams.errorOutput.text, /was shut down before the command uname had ended\n$/);
});

for (const [signal, status] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  t.test(`${signal} stops the machine`, async (t) => {
    const { vm, streams } = setUp();
    const before = process.listenerCount(signal);
    const run = runMachine(vm, onConsole, streams);
    await vm.started;
    // A handled signal alone does not keep the event loop alive; a running machine does.
    const alive = setInterval(() => {}, 1000);
    process.kill(process.pid, signal);
    t.equal(await run, status);
    clearInterval(alive);
    t.strictSame(vm.calls, ['start', 'stop']);
    t.equal(process.listenerCount(signal), before, 'and its handler is gone');
  });
}

t.test('log lines of the machine', async (t) => {
  const { vm, streams } = setUp();
  const run = runMachine(vm, onConsole, streams);
  vm.log('blk0: the disk shrank');
  vm.end({ reason: 'power-off' });
  await run;
  t.equal(streams.errorOutput.text, 'nodevmm: blk0: the disk shrank\n');
});
