/** `nodevmm run` with real guests: consoles, commands, exit statuses, bad input, nothing left behind. */
import { type ChildProcess, spawn } from 'node:child_process';
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { buildGuest } from '../../src/guest/guests.ts';

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

  constructor(args: readonly string[], input: 'ignore' | 'pipe' = 'ignore') {
    const [first = '', ...rest] = args;
    const argv = ['dist/src/cli/main.js', first, '--no-lab', ...rest];
    this.process = spawn(process.execPath, argv, { stdio: [input, 'pipe', 'pipe'] });
    this.process.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text;
      this.#changed();
    });
    this.process.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    this.result = new Promise((resolve) => {
      this.process.on('close', (code, signal) => {
        this.#changed();
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
const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-cli-'));
t.teardown(() => rmSync(folder, { recursive: true }));
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

t.test('a kernel without an init shows what it said', async (t) => {
  const { status, stderr } = await nodevmm(
    ...['run', '--kernel', kernel, '--console', 'none', '--append', 'panic=-1'],
  );
  t.equal(status, 200);
  t.match(stderr, /nodevmm: the guest ended: panic.*(root fs|init)/);
});

const taps = (): string[] => readdirSync('/sys/class/net').filter((name) => /^nodevmm/.test(name));

for (const [signal, status] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  t.test(`${signal}: status ${status}, and the tap is gone`, async (t) => {
    const before = taps();
    const run = new Run(['run', '--net', 'auto'], 'pipe');
    await run.shows(PROMPT);
    t.equal(taps().length, before.length + 1, 'a tap was made');
    run.process.kill(signal);
    t.match(await run.result, { status, stderr: '' });
    t.same(taps(), before);
  });
}

const notKernel = at('text');
writeFileSync(notKernel, 'This is no kernel.\n'.repeat(1000));
const cut = at('cut');
writeFileSync(cut, readFileSync(kernel).subarray(0, 1_000_000));
const disk = at('disk.raw');
writeFileSync(disk, '');
truncateSync(disk, 2 ** 20);
const own = ['--kernel', kernel, '--initrd', initrd];

const BAD: readonly (readonly [string, string[], RegExp])[] = [
  ['no kernel there', ['--kernel', '/nonexistent'], /\/nonexistent/],
  ['a folder for a kernel', ['--kernel', folder], /nodevmm-cli-/],
  ['not a kernel', ['--kernel', notKernel], /text/],
  ['half a kernel', ['--kernel', cut], /cut/],
  ['no initrd there', ['--kernel', kernel, '--initrd', '/nonexistent'], /\/nonexistent/],
  ['too little memory', [...own, '--memory', '16M'], /16 MiB/],
  ['more memory than there is', [...own, '--memory', '64T'], /memory/],
  ['too many CPUs', [...own, '--cpus', '1000'], /1000/],
  ['no disk there', [...own, '--disk', '/nonexistent'], /\/nonexistent/],
  ['a folder for a disk', [...own, '--disk', folder], /nodevmm-cli-/],
  ['one disk twice', [...own, '--disk', disk, '--disk', disk], /disk\.raw/],
  ['a serial too long', [...own, '--disk', `${disk},serial=123456789012345678901`], /serial/],
  ['an impossible tap name', [...own, '--net', 'tap=a/b'], /a\/b/],
  ['no such tap address', [...own, '--net', 'auto,address=10.0.0.300/24'], /10\.0\.0\.300/],
  ['no such guest', ['--guest', 'windows'], /windows/],
  ['a console file that cannot be', [...own, '--console', 'file:/nonexistent/x'], /nonexistent/],
  ['a queue size of 3', [...own, '--ring', 'all,queue-size=3'], /power of two/],
];
for (const [what, args, message] of BAD) {
  t.test(`bad input: ${what}`, async (t) => {
    const before = taps();
    const { status, stdout, stderr } = await nodevmm('run', ...args);
    t.equal(status, 2);
    t.equal(stdout, '');
    t.match(stderr, message);
    t.match(stderr, /^nodevmm: [^\n]+\n$/, 'one line, no stack trace');
    t.same(taps(), before, 'no tap is left');
  });
}
