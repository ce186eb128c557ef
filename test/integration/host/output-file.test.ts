/** Output files: how they are created, which paths are refused, and full disks. */
import { execFileSync } from 'node:child_process';
import { closeSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import {
  openOutputFile,
  reasonOf,
  systemError,
  writeFully,
  writeOutputFile,
} from '../../../src/host/output-file.ts';
import { testFolder } from '../../support/rigs/files.ts';

const folder = testFolder(t);
const at = (name: string): string => path.join(folder, name);

t.test('a new file is its owner’s alone, whatever the umask', async (t) => {
  const before = process.umask(0);
  t.teardown(() => process.umask(before));
  closeSync(openOutputFile('a test', at('new'), 'E_TEST'));
  t.equal(statSync(at('new')).mode & 0o777, 0o600);
});

t.test('an existing file keeps its mode, and is truncated or appended to', async (t) => {
  writeFileSync(at('old'), 'before ', { mode: 0o644 });
  const fd = openOutputFile('a test', at('old'), 'E_TEST', true);
  writeFully(fd, 'after');
  closeSync(fd);
  t.equal(readFileSync(at('old'), 'utf8'), 'before after');
  t.equal(statSync(at('old')).mode & 0o777, 0o644);
  writeOutputFile('a test', at('old'), 'E_TEST', 'new');
  t.equal(readFileSync(at('old'), 'utf8'), 'new');
});

t.test('no symbolic link is followed, not even one that leads nowhere', async (t) => {
  writeFileSync(at('victim'), 'precious');
  symlinkSync(at('victim'), at('link'));
  symlinkSync(at('not-there'), at('dangling'));
  for (const link of ['link', 'dangling']) {
    for (const append of [false, true]) {
      t.throws(() => openOutputFile('a test', at(link), 'E_TEST', append), {
        name: 'UsageError',
        code: 'E_TEST',
        message: /link|dangling.*symbolic link; use the file/,
      });
    }
  }
  t.equal(readFileSync(at('victim'), 'utf8'), 'precious');
  t.throws(() => statSync(at('not-there')));
});

t.test('a file that cannot be opened is an immediate error of one line', async (t) => {
  execFileSync('mkfifo', [at('fifo')]);
  for (const [name, why] of [
    [at('fifo'), /without a reader/],
    [folder, /it is a folder/],
    ['/nonexistent/x', /no such folder/],
    [at('old/x'), /not a directory \(ENOTDIR\)/],
  ] as const) {
    t.throws(() => openOutputFile('a test', name, 'E_TEST'), { message: why });
  }
});

t.test('a link to a descriptor of this process is no other user’s', async (t) => {
  const fd = openOutputFile('a test', at('own'), 'E_TEST');
  writeOutputFile('a test', `/dev/fd/${fd}`, 'E_TEST', 'by descriptor');
  closeSync(fd);
  t.equal(readFileSync(at('own'), 'utf8'), 'by descriptor');
});

t.test('a full disk is the host’s error, and no bug', async (t) => {
  t.throws(() => writeOutputFile('a test', '/dev/full', 'E_TEST', 'x'), {
    name: 'HostError',
    code: 'ENOSPC',
    message: /^write on \/dev\/full failed: no space left on device \(ENOSPC\)$/,
  });
});

t.test('errors of Node’s own modules', async (t) => {
  const caught = (work: () => void): unknown => {
    try {
      work();
      return undefined;
    } catch (error) {
      return error;
    }
  };
  const missing = caught(() => readFileSync('/nonexistent'));
  t.match(systemError(missing), { code: 'ENOENT', call: 'open', object: '/nonexistent' });
  t.equal(reasonOf(missing), 'no such file or directory (ENOENT)');
  const wrong = caught(() => closeSync(100_000));
  t.equal(systemError(wrong), undefined, 'EBADF is a bug');
  t.equal(systemError(new TypeError('x')), undefined);
  t.equal(reasonOf(new TypeError('x')), 'x');
});
