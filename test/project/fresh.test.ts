/** `npm run fresh` leaves nothing behind, however it ends: with an mmdebstrap of the test's own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { findProgram } from '../../src/guest/programs.ts';
import { testFolder } from '../support/rigs/files.ts';

const skip =
  process.getuid?.() !== 0
    ? 'only root mounts'
    : ['unshare', 'setpriv'].find((name) => findProgram(name) === undefined) !== undefined
      ? 'util-linux is not installed'
      : false;

interface Fresh {
  readonly child: ChildProcess;
  readonly temporary: string;
  readonly stderr: () => string;
}

/** Starts it with a program that acts as mmdebstrap; its last argument but one is the target. */
function fresh(t: Test, script: string): Fresh {
  const folder = testFolder(t);
  const temporary = path.join(folder, 'tmp');
  mkdirSync(temporary);
  const at = path.join(folder, 'mmdebstrap');
  writeFileSync(
    at,
    `#!/bin/sh\n[ "$1" = --version ] && exit\nfor target; do :; done\n${script}\n`,
    {
      mode: 0o755,
    },
  );
  // Before there is a root file system, only its version is queried.
  writeFileSync(path.join(folder, 'git'), '#!/bin/sh\n', { mode: 0o755 });
  const child = spawn(process.execPath, ['test/fresh/run.mjs', 'unit'], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, TMPDIR: temporary, PATH: `${folder}:${process.env.PATH}` },
  });
  t.teardown(() => child.kill('SIGKILL'));
  let output = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    output += chunk;
  });
  return { child, temporary, stderr: () => output };
}

t.test('an mmdebstrap that fails', { skip }, async (t) => {
  const { child, temporary, stderr } = fresh(t, 'echo no such mirror >&2; exit 25');
  const [status] = await once(child, 'close');
  t.equal(status, 1);
  t.match(stderr(), /^fresh: mmdebstrap ended with status 25: no such mirror$/m);
  t.strictSame(readdirSync(temporary), []);
});

for (const [signal, status] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  t.test(`${signal} while something is mounted and running`, { skip }, async (t) => {
    const { child, temporary } = fresh(
      t,
      'mkdir -p "$target/inner"; mount -t tmpfs tmpfs "$target/inner"; sleep 1000 & echo $$ > "$target/up"; wait',
    );
    const up = (): string | undefined => {
      const [name] = readdirSync(temporary);
      const file = path.join(temporary, name ?? '', 'root/up');
      return existsSync(file) ? file : undefined;
    };
    while (up() === undefined && child.exitCode === null) await delay(20);
    t.equal(child.exitCode, null);
    t.notMatch(readFileSync('/proc/self/mounts', 'utf8'), temporary, 'mounts are not seen here');
    child.kill(signal);
    const [code] = await once(child, 'close');
    t.equal(code, status);
    t.strictSame(readdirSync(temporary), []);
  });
}
