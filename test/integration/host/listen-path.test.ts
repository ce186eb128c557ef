/** Unix sockets by path: who owns the file, and when it is removed. */
import { spawnSync } from 'node:child_process';
import {
  chownSync,
  existsSync,
  linkSync,
  mkdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';
import t from 'tap';
import { UsageError } from '../../../src/host/errors.ts';
import { ListenPath } from '../../../src/host/listen-path.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { OTHER_UID, otherUserReason } from '../../support/rigs/host.ts';

const folder = testFolder(t);
const file = path.join(folder, 'sock');
const module = new URL('../../../src/host/listen-path.js', import.meta.url).href;

/** Runs a script in a process of its own, that has `ListenPath` and `file`. */
function script(text: string): void {
  const source = `import { ListenPath } from '${module}'; const file = '${file}'; ${text}`;
  const { status, signal, stderr } = spawnSync(
    process.execPath,
    ['--input-type=module', '-e', source],
    { encoding: 'utf8' },
  );
  if (status !== 0 && signal !== 'SIGKILL') throw new Error(stderr);
}

t.test('the file is there while it is owned', (t) => {
  const owner = new ListenPath(file);
  t.equal(owner.path, file);
  t.ok(existsSync(file));
  t.throws(() => new ListenPath(file), {
    name: 'UsageError',
    message: /another process is listening/,
  });
  t.ok(existsSync(file), 'the refused one leaves it alone');
  owner.close();
  t.notOk(existsSync(file));
  owner.close();
  t.end();
});

t.test('a process that ends takes its file along', (t) => {
  script('new ListenPath(file); process.exit(0)');
  t.notOk(existsSync(file), 'by process.exit');
  script('new ListenPath(file)');
  t.notOk(existsSync(file), 'by having nothing to do');
  t.throws(() => script('new ListenPath(file); throw new Error("planned")'), /planned/);
  t.notOk(existsSync(file), 'by an exception');
  t.end();
});

t.test("a dead process's file is replaced", (t) => {
  script('new ListenPath(file); process.kill(process.pid, "SIGKILL")');
  t.ok(existsSync(file), 'it is left there');
  const owner = new ListenPath(file);
  t.ok(existsSync(file));
  owner.close();
  t.end();
});

t.test("another user's socket or file is neither replaced nor removed", async (t) => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(file, resolve));
  t.throws(() => new ListenPath(file), { message: /another process is listening/ });
  await new Promise((resolve) => server.close(resolve));
  writeFileSync(file, 'mine');
  t.throws(() => new ListenPath(file), { message: /a file that is not a socket exists there/ });
  rmSync(file);
  const owner = new ListenPath(file);
  rmSync(file);
  writeFileSync(file, 'mine');
  owner.close();
  t.ok(existsSync(file), 'what took its place stays');
  rmSync(file);
});

t.test('only this user and root can connect, whatever the umask', (t) => {
  const before = process.umask(0);
  t.teardown(() => process.umask(before));
  const mode = (): number => statSync(file).mode & 0o777;
  {
    using _owner = new ListenPath(file);
    t.equal(mode(), 0o600);
  }
  process.umask(0o077);
  {
    using _owner = new ListenPath(file, { forAll: true });
    t.equal(mode(), 0o666, 'unless peers are checked on accept');
  }
  t.end();
});

t.test("another user's stale socket stays", { skip: otherUserReason() }, (t) => {
  script('new ListenPath(file); process.kill(process.pid, "SIGKILL")');
  chownSync(file, OTHER_UID, OTHER_UID);
  const { ino } = statSync(file);
  t.throws(() => new ListenPath(file), { message: /belongs to user 65534; use another path/ });
  t.equal(statSync(file).ino, ino);
  rmSync(file);
  t.end();
});

t.test('what its path means later is not removed in its place', (t) => {
  const inner = path.join(folder, 'inner');
  const other = path.join(folder, 'other');
  mkdirSync(inner);
  mkdirSync(other);
  const owner = new ListenPath(path.join(inner, 'sock'));
  renameSync(inner, `${inner}-moved`);
  symlinkSync(other, inner);
  // The same file by another way: what is compared is not only the inode.
  linkSync(path.join(`${inner}-moved`, 'sock'), path.join(other, 'sock'));
  owner.close();
  t.ok(existsSync(path.join(other, 'sock')));
  t.notOk(existsSync(path.join(`${inner}-moved`, 'sock')), 'its own is, where it went');
  t.end();
});

t.test('paths that cannot be listened on', (t) => {
  const loop = path.join(folder, 'loop');
  symlinkSync('loop', loop);
  for (const [bad, message] of [
    [path.join(folder, 'none', 'sock'), /no folder .*none; create it first/],
    ['', /not 1 to 107/],
    [path.join(folder, 'a\0b'), /not 1 to 107/],
    [`/tmp/${'x'.repeat(103)}`, /has 108 bytes, not 1 to 107/],
    [path.join(loop, 'sock'), /ELOOP/],
    ['/dev/null/sock', /\/dev\/null is not a folder/],
  ] as const) {
    t.throws(() => new ListenPath(bad), { message }, JSON.stringify(bad.slice(0, 30)));
    t.throws(() => new ListenPath(bad), UsageError);
  }
  t.throws(() => new ListenPath(`/tmp/${'x'.repeat(100)}`, { suffix: '_12' }), /not 1 to 104/);
  t.end();
});
