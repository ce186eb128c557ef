/** The program on the command line: help, version, bad usage. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import t from 'tap';
import { BUNDLE } from '../../support/rigs/host.ts';

function nodevmm(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [BUNDLE, ...args], { encoding: 'utf8' });
}

t.test('--version is that of the package', (t) => {
  const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
  t.match(nodevmm('--version'), { status: 0, stdout: `${version}\n`, stderr: '' });
  t.end();
});

t.test('--help has the exit statuses and examples', (t) => {
  t.match(nodevmm('--help'), { status: 0, stdout: /200 +the guest's kernel panicked/ });
  t.match(nodevmm('run', '--help'), { status: 0, stdout: /nodevmm run -- uname -a/ });
  t.end();
});

t.test('bench finds its program and leaves options to it', (t) => {
  const help = nodevmm('bench', '--help');
  t.match(help, {
    status: 0,
    stderr: '',
    stdout: /nodevmm bench compare before\.json after\.json/,
  });
  t.match(help.stdout, /net +TCP/);
  t.match(nodevmm('help', 'bench'), { status: 0, stdout: /nodevmm bench --help/ });
  t.end();
});

const REFUSED: readonly (readonly [string[], RegExp])[] = [
  [['bogus'], /unknown command 'bogus'/],
  [['run', '--bogus'], /unknown option '--bogus'/],
  [['run', 'ls'], /ls is not an option; put a command for the guest after --/],
  [['run', '--memory', 'much'], /--memory.*512M or 4G/],
  [['run', '--cpus', '0'], /--cpus.*number from 1/],
  [['run', '--console', 'pty'], /--console.*tty, none, file:PATH or file:PATH,append/],
  [['run', '--on-reboot', 'halt'], /--on-reboot.*restart, exit/],
  [['run', '--disk', 'a,what'], /does not know what/],
  [['bench', 'nett'], /no benchmark nett; there are .*net/],
  [['bench', 'net', '--rounds', 'many'], /--rounds.*number from 1/],
  [['bench', 'net', '--json', '/nowhere/at/all'], /cannot write \/nowhere\/at\/all: ENOENT/],
  [['bench', 'compare', 'a'], /missing required argument.*after\.json/],
];
for (const [args, message] of REFUSED) {
  t.test(`refuses ${args.join(' ')}`, (t) => {
    const { status, stdout, stderr } = nodevmm(...args);
    t.equal(status, 2);
    t.equal(stdout, '');
    t.match(stderr, message);
    t.match(stderr, /^nodevmm: [^\n]*\n$/, 'one line, no stack trace');
    t.end();
  });
}
