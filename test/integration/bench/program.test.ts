/** The program of `npm run bench` as a process. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import t from 'tap';

const PROGRAM = 'dist/bench/run.js';

t.test('a reader that leaves ends it without a word', async (t) => {
  const child = spawn(process.execPath, [PROGRAM, '--help'], { stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.destroy();
  let errors = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    errors += text;
  });
  const [status] = await once(child, 'close');
  t.equal(errors, '');
  t.equal(status, 141, '128 and SIGPIPE');
});

t.test('output that cannot be written is one line, and a failure', async (t) => {
  const child = spawn(process.execPath, [PROGRAM, 'summary'], {
    stdio: ['ignore', openSync('/dev/full', 'w'), 'pipe'],
  });
  let errors = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    errors += text;
  });
  const [status] = await once(child, 'close');
  t.match(errors, /^nodevmm: write on standard output failed: .*\n$/);
  t.equal(status, 2);
});
