/** Runs whose output is not read: slow, stopped, full, gone. */
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { ask } from '../../src/machine/control/client.ts';
import {
  elfKernel,
  KERNEL_GPA,
  PANIC,
  print,
  printMuch,
} from '../support/fixtures/kernel-image.ts';
import { CliRun, PROGRAM, runInTerminal } from '../support/rigs/cli-run.ts';
import { testFolder } from '../support/rigs/files.ts';
import { kvmMissing } from './tiny-guest.ts';

const skip = kvmMissing();
const folder = testFolder(t);
process.env.XDG_RUNTIME_DIR = folder;

function kernelOf(name: string, code: readonly number[]): string {
  const file = path.join(folder, name);
  const segments = [{ paddr: KERNEL_GPA, bytes: Uint8Array.from(code) }];
  writeFileSync(file, elfKernel({ segments, pvhEntry: KERNEL_GPA }));
  return file;
}

/** More than a pipe, a terminal and all streams between hold. */
const TIMES = 20_000;
const muchThenPanic = kernelOf('much', [...printMuch(TIMES), ...PANIC]);
const endless = kernelOf('for-ever', [...print('U'), 0xeb, 0xfd]);
const SERIAL = ['--console', 'none', '--serial', 'tty'];

/** Resolves when a run has printed this on its standard error; rejects when it ends before. */
async function waitFor(child: ChildProcess, text: string): Promise<void> {
  let output = '';
  for await (const chunk of child.stderr?.iterator({ destroyOnReturn: false }) ?? []) {
    output += chunk;
    if (output.includes(text)) return;
  }
  throw new Error(`no ${text} in ${output}`);
}

/** Resolves with its status; a test that fails before leaves nothing of it. */
function ended(t: Test, child: ChildProcess): Promise<number | NodeJS.Signals | null> {
  t.teardown(() => {
    try {
      process.kill(-(child.pid ?? 0), 'SIGKILL');
    } catch {
      // It has ended.
    }
  });
  return new Promise((resolve) => child.on('exit', (code, signal) => resolve(signal ?? code)));
}

t.test('a reader that does not read holds up no guest, and loses nothing', { skip }, async (t) => {
  const run = new CliRun(folder, ['--kernel', muchThenPanic, ...SERIAL]);
  run.process.stdout?.pause();
  await waitFor(run.process, 'the guest ended: panic');
  run.process.stdout?.resume();
  const { status, stdout } = await run.result;
  t.equal(status, 200);
  t.equal(stdout.length, 16 * TIMES);
});

t.test('a terminal that was stopped holds up no guest', { skip }, async (t) => {
  const run = runInTerminal(folder, ['--kernel', muchThenPanic, ...SERIAL]);
  const end = ended(t, run);
  await waitFor(run, 'the guest ended: panic');
  // The guest is over, and its output waits to be read: a signal ends the process all the same, with
  // the guest's status if it comes while the machine is being taken down.
  run.kill('SIGTERM');
  const status = await end;
  t.ok(status === 143 || status === 200, `${status}`);
});

t.test('a terminal that was stopped holds up no signal', { skip }, async (t) => {
  const run = runInTerminal(folder, ['--kernel', endless, ...SERIAL, '--name', 'stopped']);
  const end = ended(t, run);
  // More than what lies between the guest and the terminal holds, a byte for each exit.
  while ((await ask('stopped', { call: 'status' }).catch(() => ({ exits: 0 }))).exits < 100_000) {
    await delay(100);
  }
  run.kill('SIGTERM');
  t.equal(await end, 143);
});

const printThenPanic = kernelOf('print', [...print('hello'), ...PANIC]);
const full = openSync('/dev/full', 'w');
t.teardown(() => closeSync(full));

/** Runs a guest that prints and panics, with these streams. Standard error may be read or not. */
function start(args: readonly string[], stdio: StdioOptions): ChildProcess {
  const own = ['--kernel', printThenPanic, '--console', 'none'];
  return spawn(process.execPath, [PROGRAM, 'run', '--no-lab', ...own, ...args], { stdio });
}

async function textOf(child: ChildProcess): Promise<string> {
  let text = '';
  for await (const chunk of child.stderr ?? []) text += chunk;
  return text;
}

t.test('a console file on a full disk does not end the guest', { skip }, async (t) => {
  const run = start(['--serial', 'file:/dev/full'], ['ignore', 'ignore', 'pipe']);
  const [end, text] = await Promise.all([ended(t, run), textOf(run)]);
  t.equal(end, 200, 'the guest’s own end');
  t.match(text, /the console cannot be written to \/dev\/full: no space left on device \(ENOSPC\)/);
  t.match(text, /5 bytes of console output are missing from \/dev\/full\n/);
  t.notMatch(text, /bug/);
});

t.test('a console file is never reached through a symbolic link', { skip }, async (t) => {
  const victim = path.join(folder, 'victim');
  const link = path.join(folder, 'link');
  writeFileSync(victim, 'precious');
  symlinkSync(victim, link);
  for (const option of ['--serial', '--console']) {
    const run = start([option, `file:${link}`], ['ignore', 'ignore', 'pipe']);
    const [end, text] = await Promise.all([ended(t, run), textOf(run)]);
    t.equal(end, 2);
    t.match(
      text,
      /^nodevmm: cannot write the console to \S+link: it is a symbolic link; [^\n]+\n$/,
    );
  }
  t.equal(readFileSync(victim, 'utf8'), 'precious');
});

t.test('standard output on a full disk ends the run, in one line', { skip }, async (t) => {
  const run = start(['--serial', 'tty'], ['ignore', full, 'pipe']);
  const [end, text] = await Promise.all([ended(t, run), textOf(run)]);
  t.equal(end, 2);
  t.match(text, /nodevmm: write on standard output failed: no space left on device \(ENOSPC\)\n/);
});

t.test('standard error on a full disk changes nothing', { skip }, async (t) => {
  t.equal(await ended(t, start(['--serial', 'none'], ['ignore', 'ignore', full])), 200);
});

t.test(
  'a reader of standard error that leaves ends the run, as SIGPIPE would',
  { skip },
  async (t) => {
    const run = start(['--serial', 'none'], ['ignore', 'ignore', 'pipe']);
    run.stderr?.destroy();
    t.equal(await ended(t, run), 141);
  },
);

t.test('commands that print, on a full disk', async (t) => {
  for (const args of [['--help'], ['doctor'], ['vm', 'list', '--json']]) {
    const run = spawn(process.execPath, [PROGRAM, ...args], { stdio: ['ignore', full, 'pipe'] });
    const [end, text] = await Promise.all([ended(t, run), textOf(run)]);
    t.equal(end, 2, args.join(' '));
    t.match(text, /^nodevmm: write on standard output failed: no space left on device [^\n]+\n$/);
  }
});
