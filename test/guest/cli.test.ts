/** `nodevmm run` with real guests, under --check: consoles, commands, exit statuses, signals. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { buildGuest } from '../../src/guest/guests.ts';
import { testFolder } from '../support/rigs/files.ts';

interface Result {
  readonly status: number | string;
  readonly stdout: string;
  readonly stderr: string;
}

/** A run in progress. */
class Run {
  readonly process: ChildProcess;
  readonly result: Promise<Result>;
  stdout = '';
  stderr = '';
  #changed: () => void = () => {};

  constructor(
    args: readonly string[],
    input: 'ignore' | 'pipe' = 'ignore',
    encoding: 'utf8' | 'latin1' = 'utf8',
  ) {
    const [first = '', ...rest] = args;
    // Named outright: each process that looks for the image checks what it is made of.
    const image = rest.includes('--kernel') || rest.includes('--guest') ? [] : own;
    const argv = ['dist/bundle/bin/main.js', first, '--no-lab', '--check', ...image, ...rest];
    this.process = spawn(process.execPath, argv, { stdio: [input, 'pipe', 'pipe'] });
    this.process.stdout?.setEncoding(encoding).on('data', (text: string) => {
      this.stdout += text;
      this.#changed();
    });
    this.process.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    this.result = new Promise((resolve) => {
      this.process.on('close', (code, signal) => {
        this.#changed();
        if (this.stderr.includes(' broke a rule: ')) t.fail(this.stderr);
        resolve({ status: signal ?? code ?? '', stdout: this.stdout, stderr: this.stderr });
      });
    });
  }

  /** Resolves when the output holds a text; rejects when it ends without. */
  async shows(text: string): Promise<void> {
    while (!this.stdout.includes(text)) {
      if (this.process.exitCode !== null) throw new Error(`no ${text}: ${this.stderr}`);
      await new Promise<void>((resolve) => {
        this.#changed = resolve;
      });
    }
  }
}

const nodevmm = (...args: string[]): Promise<Result> => new Run(args).result;

const { kernel, initrd } = await buildGuest('minimal');
const own = ['--kernel', kernel, '--initrd', initrd];
const folder = testFolder(t);
const at = (name: string): string => path.join(folder, name);
/** The prompt of the guest's shell. */
const PROMPT = ':~# ';

t.test('-- COMMAND: output, error output and status are its own', async (t) => {
  const command = 'echo out; echo err >&2; exit 7';
  t.same(await nodevmm('run', '--', 'sh', '-c', command), {
    status: 7,
    stdout: 'out\n',
    stderr: 'err\n',
  });
});

t.test('-- COMMAND reads what is piped in, to its end', async (t) => {
  const run = new Run(['run', '--', 'wc', '-c'], 'pipe');
  run.process.stdin?.end(Buffer.alloc(300_000, 'x'));
  t.match(await run.result, { status: 0, stdout: '300000\n' });
});

t.test('-- COMMAND puts out every byte', async (t) => {
  const script = 'head -c 5000000 /dev/urandom >/bytes; sha256sum </bytes >&2; exec cat /bytes';
  const run = new Run(['run', '--', 'sh', '-c', script], 'ignore', 'latin1');
  const { status, stdout, stderr } = await run.result;
  t.equal(status, 0);
  const sum = createHash('sha256').update(Buffer.from(stdout, 'latin1')).digest('hex');
  t.equal(stderr, `${sum}  -\n`);
});

t.test('a command that is not there', async (t) => {
  const { status, stderr } = await nodevmm('run', '--', 'no-such-program');
  t.equal(status, 2);
  t.match(stderr, /^nodevmm: .*no-such-program[^\n]*\n$/);
});

t.test('the console: a shell over a pipe, then a power-off', async (t) => {
  const run = new Run(['run'], 'pipe');
  await run.shows(PROMPT);
  run.process.stdin?.write('echo $((6 * 7))\n');
  await run.shows('\n42');
  run.process.stdin?.write('poweroff -f\n');
  t.match(await run.result, { status: 0, stderr: '' });
});

t.test('--console file, --append, --memory, --cpus, --no-rng', async (t) => {
  const log = at('console.log');
  const result = await nodevmm(
    ...['run', '--console', `file:${log}`, '--append', 'loglevel=7 marker=here'],
    ...['--memory', '256M', '--cpus', '2', '--no-rng', '--', 'sh', '-c'],
    'cat /proc/cmdline; nproc; grep MemTotal /proc/meminfo; ls /dev/hwrng /sys/class/misc/hw_random/rng_current | wc -l',
  );
  t.equal(result.status, 0);
  t.match(result.stdout, /marker=here\n2\nMemTotal: +2\d\d\d\d\d kB/);
  t.match(readFileSync(log, 'utf8'), 'nodevmm-init');
});

t.test('a kernel panic: status 200 and one line', async (t) => {
  const { status, stderr } = await nodevmm(
    ...['run', '--', 'sh', '-c', 'echo c > /proc/sysrq-trigger'],
  );
  t.equal(status, 200);
  t.match(stderr, /nodevmm: the guest ended: panic/);
});

t.test('a triple fault: status 201', async (t) => {
  const run = await nodevmm('run', '--append', 'reboot=triple', '--', 'reboot', '-f');
  t.equal(run.status, 201);
});

t.test('a guest that powers off under its command: status 203', async (t) => {
  t.equal((await nodevmm('run', '--', 'poweroff', '-f')).status, 203);
});

t.test('the output of a kernel without an init is shown', async (t) => {
  const { status, stderr } = await nodevmm(
    ...['run', '--kernel', kernel, '--console', 'none', '--append', 'panic=-1'],
  );
  t.equal(status, 200);
  t.match(stderr, /nodevmm: the guest ended: panic.*(root fs|init)/);
});

const taps = (): string[] => readdirSync('/sys/class/net').filter((name) => /^nodevmm/.test(name));

t.test('SIGTERM: status 143, and the tap is gone', async (t) => {
  const before = taps();
  const run = new Run(['run', '--net', 'auto'], 'pipe');
  await run.shows(PROMPT);
  t.equal(taps().length, before.length + 1, 'a tap was made');
  run.process.kill('SIGTERM');
  t.match(await run.result, { status: 143, stderr: '' });
  t.same(taps(), before);
});
