/** Folders of one process: what removing them leaves alone. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { TemporaryFolder } from '../../../src/host/temporary-folder.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { OTHER_UID, otherUserReason } from '../../support/rigs/host.ts';

const parent = testFolder(t);
const module = new URL('../../../src/host/temporary-folder.js', import.meta.url).href;
const skip = otherUserReason();

/** A folder that is not empty. */
function precious(name: string): string {
  const folder = path.join(parent, name);
  mkdirSync(folder, { mode: 0o700 });
  writeFileSync(path.join(folder, 'precious'), 'kept');
  return folder;
}

/** Another process that makes a folder with something in it, and waits. */
async function start() {
  const script = `
    import { TemporaryFolder } from ${JSON.stringify(module)};
    import { mkdirSync } from 'node:fs';
    const folder = new TemporaryFolder('x-', ${JSON.stringify(parent)});
    mkdirSync(folder.path + '/a/b', { recursive: true });
    console.log(folder.path);
    process.stdin.on('end', () => process.exit()).resume();`;
  const owner = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const [line] = (await once(owner.stdout, 'data')) as [Buffer];
  return { owner, folder: line.toString().trim() };
}

t.test('it is closed to others, and gone with all that is in it', async (t) => {
  const folder = new TemporaryFolder('x-', parent);
  t.match(folder.path, `${parent}/x-`);
  t.equal(statSync(folder.path).mode & 0o777, 0o700);
  mkdirSync(path.join(folder.path, 'a/b'), { recursive: true });
  writeFileSync(path.join(folder.path, 'a/b/c'), '');
  writeFileSync(Buffer.concat([Buffer.from(`${folder.path}/`), Buffer.from([0xff])]), '');
  folder[Symbol.dispose]();
  folder[Symbol.dispose]();
  t.same(readdirSync(parent), []);
});

t.test('where symbolic links lead, nothing is removed', async (t) => {
  const kept = precious('kept');
  {
    using folder = new TemporaryFolder('x-', parent);
    symlinkSync(kept, path.join(folder.path, 'link'));
    symlinkSync('../kept/precious', path.join(folder.path, 'file'));
  }
  t.same([readdirSync(parent), readdirSync(kept)], [['kept'], ['precious']]);
  const folder = new TemporaryFolder('x-', parent);
  renameSync(folder.path, `${parent}/moved`);
  symlinkSync(kept, folder.path);
  folder[Symbol.dispose]();
  t.same(readdirSync(kept), ['precious'], 'its own name may have become a link');
  rmSync(folder.path);
  const exchanged = new TemporaryFolder('x-', parent);
  renameSync(exchanged.path, `${parent}/moved-too`);
  renameSync(kept, exchanged.path);
  exchanged[Symbol.dispose]();
  t.same(readdirSync(exchanged.path), ['precious'], 'or that of another folder');
  for (const name of readdirSync(parent)) rmSync(path.join(parent, name), { recursive: true });
});

t.test('what is mounted in it stays whole', { skip }, async (t) => {
  const kept = precious('kept');
  // In a mount namespace of its own, so that the mount ends with it.
  const script = `
    import { TemporaryFolder } from ${JSON.stringify(module)};
    import { mkdirSync } from 'node:fs';
    import { spawnSync } from 'node:child_process';
    const temporary = new TemporaryFolder('x-', ${JSON.stringify(parent)});
    mkdirSync(temporary.path + '/at');
    const { status } = spawnSync('mount', ['--bind', ${JSON.stringify(kept)}, temporary.path + '/at']);
    if (status !== 0) process.exit(3);
    temporary[Symbol.dispose]();`;
  const argv = ['--mount', process.execPath, '--input-type=module', '-e', script];
  const { status } = spawnSync('unshare', argv, { stdio: 'inherit' });
  t.equal(status, 0);
  t.same(readdirSync(kept), ['precious']);
  for (const name of readdirSync(parent)) rmSync(path.join(parent, name), { recursive: true });
});

t.test(
  'a process that ends takes its own along; of one that is killed the next does',
  async (t) => {
    const ending = await start();
    const killed = await start();
    const alive = await start();
    ending.owner.stdin.end();
    killed.owner.kill('SIGKILL');
    await Promise.all([once(ending.owner, 'exit'), once(killed.owner, 'exit')]);
    t.notOk(existsSync(ending.folder));
    t.ok(existsSync(killed.folder));
    TemporaryFolder.removeStale('x-', parent);
    t.notOk(existsSync(killed.folder));
    t.ok(existsSync(alive.folder), 'one that is in use stays');
    alive.owner.stdin.end();
    await once(alive.owner, 'exit');
    t.same(readdirSync(parent), []);
  },
);

t.test("nothing else is taken for a dead process's", { skip }, async (t) => {
  const theirs = precious('x-theirs');
  chownSync(theirs, OTHER_UID, OTHER_UID);
  symlinkSync(precious('kept'), path.join(parent, 'x-link'));
  writeFileSync(path.join(parent, 'x-file'), '');
  precious('y-other');
  TemporaryFolder.removeStale('x-', parent);
  t.same(readdirSync(parent).sort(), ['kept', 'x-file', 'x-link', 'x-theirs', 'y-other']);
  t.same(readdirSync(theirs), ['precious']);
  for (const name of readdirSync(parent)) rmSync(path.join(parent, name), { recursive: true });
});

t.test("another user's temporary folder is not used", { skip }, async (t) => {
  const theirs = path.join(parent, 'theirs');
  mkdirSync(theirs);
  chownSync(theirs, OTHER_UID, OTHER_UID);
  const before = process.env.TMPDIR;
  process.env.TMPDIR = theirs;
  t.teardown(() => {
    if (before === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = before;
  });
  t.throws(() => new TemporaryFolder('x-'), { code: 'E_TMPDIR', message: /belongs to user 65534/ });
  t.same(readdirSync(theirs), []);
});
