/** Folders for sockets and boot files: only our own are used, and none is changed. */
import {
  chmodSync,
  chownSync,
  existsSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t, { type Test } from 'tap';
import { cachePath, checkedCache, runtimeFolder } from '../../../src/host/private-folder.ts';
import { OTHER_UID, otherUserReason } from '../../support/rigs/host.ts';

const skip = otherUserReason();

/** With a folder of its own for each test, and the environment as it was after it. */
function withFolder(t: Test): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-test-'));
  const { XDG_RUNTIME_DIR, TMPDIR } = process.env;
  t.teardown(() => {
    rmSync(folder, { recursive: true });
    for (const [name, value] of Object.entries({ XDG_RUNTIME_DIR, TMPDIR })) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  });
  process.env.XDG_RUNTIME_DIR = folder;
  return folder;
}

const modeOf = (file: string): number => statSync(file).mode & 0o7777;

function makeFolder(folder: string, mode: number, uid = 0): string {
  mkdirSync(folder);
  chmodSync(folder, mode);
  if (uid !== 0) chownSync(folder, uid, uid);
  return folder;
}

t.test('the folder for sockets is made for this user only, whatever the umask', async (t) => {
  const folder = withFolder(t);
  const before = process.umask(0);
  t.teardown(() => process.umask(before));
  t.equal(runtimeFolder(), `${folder}/nodevmm`);
  t.equal(modeOf(`${folder}/nodevmm`), 0o700);
  t.equal(runtimeFolder(), `${folder}/nodevmm`, 'and found again');
});

t.test('a symbolic link in its place is refused, and where it leads stays as it is', async (t) => {
  const folder = withFolder(t);
  const target = makeFolder(path.join(folder, 'target'), 0o755);
  symlinkSync(target, path.join(folder, 'nodevmm'));
  t.throws(runtimeFolder, { name: 'UsageError', code: 'E_RUNTIME', message: /symbolic link/ });
  t.equal(modeOf(target), 0o755);
  delete process.env.XDG_RUNTIME_DIR;
  process.env.TMPDIR = folder;
  symlinkSync(target, path.join(folder, `nodevmm-${process.geteuid?.()}`));
  t.throws(runtimeFolder, { code: 'E_RUNTIME', message: /symbolic link/ }, 'in /tmp');
  t.equal(modeOf(target), 0o755);
});

t.test('a folder that was there is not changed: it fits, or it is refused', async (t) => {
  const folder = withFolder(t);
  const own = makeFolder(path.join(folder, 'nodevmm'), 0o755);
  for (const mode of [0o755, 0o710, 0o701, 0o777, 0o1777]) {
    chmodSync(own, mode);
    t.throws(runtimeFolder, { code: 'E_RUNTIME', message: /open to other users.*chmod 700/ });
    t.equal(modeOf(own), mode);
  }
  chmodSync(own, 0o700);
  t.equal(runtimeFolder(), own);
  rmSync(own, { recursive: true });
  writeFileSync(own, '');
  t.throws(runtimeFolder, { code: 'E_RUNTIME', message: /is not a folder/ });
});

t.test("another user's folder is refused, at every place of the path", { skip }, async (t) => {
  const folder = withFolder(t);
  makeFolder(path.join(folder, 'nodevmm'), 0o700, OTHER_UID);
  const refused = { code: 'E_RUNTIME', message: /belongs to user 65534.*XDG_RUNTIME_DIR/ };
  t.throws(runtimeFolder, refused, 'the folder');
  const theirs = makeFolder(path.join(folder, 'theirs'), 0o700, OTHER_UID);
  process.env.XDG_RUNTIME_DIR = theirs;
  t.throws(runtimeFolder, refused, 'XDG_RUNTIME_DIR');
  t.notOk(existsSync(path.join(theirs, 'nodevmm')), 'nothing is made there');
  process.env.XDG_RUNTIME_DIR = makeFolder(path.join(theirs, 'inner'), 0o700);
  t.throws(runtimeFolder, refused, 'a folder above it');
  const ours = makeFolder(path.join(folder, 'ours'), 0o700);
  symlinkSync(ours, path.join(folder, 'link'));
  lchownSync(path.join(folder, 'link'), OTHER_UID, OTHER_UID);
  process.env.XDG_RUNTIME_DIR = path.join(folder, 'link');
  t.throws(runtimeFolder, refused, "another user's link, even to a folder of ours");
  t.same(lstatSync(ours).mode & 0o777, 0o700);
  t.notOk(existsSync(path.join(ours, 'nodevmm')));
});

t.test('a folder that others may write to is no place for one, unless it is sticky', async (t) => {
  const folder = withFolder(t);
  for (const mode of [0o777, 0o770, 0o703]) {
    chmodSync(folder, mode);
    t.throws(runtimeFolder, { code: 'E_RUNTIME', message: /other users may write to/ });
  }
  chmodSync(folder, 0o1777);
  t.equal(runtimeFolder(), path.join(folder, 'nodevmm'));
});

t.test('a link of our own leads on; a relative XDG_RUNTIME_DIR is ignored', async (t) => {
  const folder = withFolder(t);
  makeFolder(path.join(folder, 'real'), 0o700);
  symlinkSync('real', path.join(folder, 'link'));
  process.env.XDG_RUNTIME_DIR = path.join(folder, 'link');
  t.equal(runtimeFolder(), path.join(folder, 'real/nodevmm'));
  process.env.XDG_RUNTIME_DIR = 'here';
  process.env.TMPDIR = folder;
  t.equal(runtimeFolder(), path.join(folder, `nodevmm-${process.geteuid?.()}`));
  symlinkSync('loop', path.join(folder, 'loop'));
  process.env.XDG_RUNTIME_DIR = path.join(folder, 'loop');
  t.throws(runtimeFolder, { code: 'E_RUNTIME', message: /too many symbolic links/ });
});

t.test('boot files come from a folder that only we can write to', async (t) => {
  const folder = withFolder(t);
  const cache = path.join(folder, 'nodevmm');
  t.equal(checkedCache(cache), cache, 'missing is fine');
  t.notOk(existsSync(cache), 'and is not made');
  makeFolder(cache, 0o755);
  t.equal(checkedCache(cache), cache, 'others may read it');
  makeFolder(path.join(cache, 'kernels'), 0o775);
  t.throws(() => checkedCache(path.join(cache, 'kernels')), {
    code: 'E_CACHE',
    message: /other users may write to .*kernels \(mode 775\); chmod go-w /,
  });
  for (const mode of [0o777, 0o1777]) {
    chmodSync(cache, mode);
    t.throws(() => checkedCache(cache), { code: 'E_CACHE', message: /other users may write to/ });
    t.equal(modeOf(cache), mode, 'nothing is changed');
  }
  t.equal(cachePath({ XDG_CACHE_HOME: '/c' }), '/c/nodevmm');
  t.match(cachePath({ XDG_CACHE_HOME: 'relative' }), /\.cache\/nodevmm$/);
});

t.test("root with another user's HOME does not boot what is there", { skip }, async (t) => {
  const folder = withFolder(t);
  const home = makeFolder(path.join(folder, 'home'), 0o755, OTHER_UID);
  const cache = path.join(home, '.cache/nodevmm');
  const refused = { code: 'E_CACHE', message: /home belongs to user 65534.*sudo -H/ };
  t.throws(() => checkedCache(cache), refused, 'also before there is a cache');
  mkdirSync(cache, { recursive: true });
  t.throws(() => checkedCache(cache), refused, "root's folder in another's");
});
