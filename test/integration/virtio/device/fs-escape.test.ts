/** A guest does not get out of its folder, whatever it asks and whatever others do on the host. */
import { execFileSync } from 'node:child_process';
import {
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import * as errno from '../../../../src/abi/errno.ts';
import { O_CREAT, O_RDWR, O_TRUNC } from '../../../../src/abi/files.ts';
import * as fuse from '../../../../src/abi/fuse.ts';
import {
  createdHandle,
  FsDriver,
  handleOf,
  join,
  nodeOf,
  pack,
  SharedFolder,
  text,
} from '../../../support/rigs/fs-driver.ts';

const ROOT = fuse.FUSE_ROOT_ID;
const ENTRY = fuse.fuse_entry_out.size;
const SECRET = 'what no guest may see';

/** A folder with a secret next to it. */
function withSecret(): SharedFolder {
  const folder = new SharedFolder();
  writeFileSync(folder.outside('secret'), SECRET);
  return folder;
}

/** Every operation that takes a name, by what it answers to one. */
function byName(fs: FsDriver, parent: number, name: Uint8Array): Record<string, number> {
  const inner = fs.find('folder');
  const ask = (opcode: number, head: Uint8Array, ...names: Uint8Array[]): number =>
    fs.request(opcode, parent, join(head, ...names), 256).error;
  const none = new Uint8Array(0);
  return {
    lookup: ask(fuse.FUSE_LOOKUP, none, name),
    create: ask(fuse.FUSE_CREATE, pack(fuse.fuse_create_in, { flags: O_RDWR, mode: 0o600 }), name),
    mkdir: ask(fuse.FUSE_MKDIR, pack(fuse.fuse_mkdir_in, { mode: 0o700 }), name),
    mknod: ask(fuse.FUSE_MKNOD, pack(fuse.fuse_mknod_in, { mode: 0o100600 }), name),
    symlink: ask(fuse.FUSE_SYMLINK, none, name, text('x')),
    link: ask(fuse.FUSE_LINK, pack(fuse.fuse_link_in, { oldnodeid: fs.find('file') }), name),
    unlink: ask(fuse.FUSE_UNLINK, none, name),
    rmdir: ask(fuse.FUSE_RMDIR, none, name),
    from: ask(fuse.FUSE_RENAME, pack(fuse.fuse_rename_in, { newdir: inner }), name, text('y')),
    to: ask(fuse.FUSE_RENAME, pack(fuse.fuse_rename_in, { newdir: inner }), text('file'), name),
  };
}

t.test('names that are no single component are refused by every operation', async (t) => {
  using folder = withSecret();
  const fs = folder.driver();
  const names = ['..', '.', '../secret', 'folder/inner', '/etc/passwd', 'folder/', '/', ''];
  for (const parent of [ROOT, fs.find('folder')]) {
    for (const name of names) {
      const found = byName(fs, parent, text(name));
      t.same([...new Set(Object.values(found))], [errno.EINVAL], JSON.stringify(name));
    }
    const long = byName(fs, parent, text('x'.repeat(256)));
    t.same([...new Set(Object.values(long))], [errno.ENAMETOOLONG]);
    const endless = byName(fs, parent, Buffer.from('secret'));
    t.same([...new Set(Object.values(endless)).values()].sort(), [errno.EINVAL], 'no NUL');
  }
  t.same(readdirSync(folder.path).sort(), ['file', 'folder']);
  t.same(readdirSync(folder.outside('.')).sort(), ['secret', 'shared']);
  t.equal(fs.lookup(ROOT, 'x'.repeat(255)).error, errno.ENOENT);
  t.equal(fs.create(ROOT, '...').error, 0, 'three dots are a name');
});

t.test('symbolic links are looked at and never followed', async (t) => {
  using folder = withSecret();
  symlinkSync('../secret', folder.at('link'));
  symlinkSync('..', folder.at('up'));
  symlinkSync('/', folder.at('slash'));
  const fs = folder.driver();
  const link = fs.find('link');
  t.equal(fs.open(link).error, errno.ELOOP);
  t.equal(fs.open(link, O_TRUNC).error, errno.ELOOP);
  for (const name of ['up', 'slash']) {
    const id = fs.find(name);
    t.equal(fs.lookup(id, 'secret').error, errno.ENOTDIR, name);
    const opendir = fs.request(fuse.FUSE_OPENDIR, id, pack(fuse.fuse_open_in), 16);
    t.equal(opendir.error, errno.ENOTDIR, name);
    t.same(byName(fs, id, text('secret')).create, errno.ENOTDIR, name);
  }
  t.equal(fs.create(ROOT, 'link', O_RDWR | O_TRUNC).error, errno.ELOOP);
  t.not(fs.setattr(link, { valid: fuse.FATTR_MODE, mode: 0o777 }).error, 0);
  t.equal(fs.setattr(link, { valid: fuse.FATTR_MTIME, mtime: 1 }).error, 0, 'the link’s own time');
  const xattr = join(pack(fuse.fuse_setxattr_in, { size_: 1 }), text('user.a'), text(''));
  t.equal(fs.request(fuse.FUSE_SETXATTR, link, xattr).error, errno.EPERM);
  const stats = statSync(folder.outside('secret'));
  t.equal(readFileSync(folder.outside('secret'), 'utf8'), SECRET);
  t.not(stats.mode & 0o777, 0o777);
  t.ok(stats.mtimeMs > 1e12);
});

t.test('FIFOs, sockets and devices are not opened', async (t) => {
  using folder = withSecret();
  execFileSync('mkfifo', [folder.at('fifo')]);
  const server = createServer();
  await new Promise<void>((done) => server.listen(folder.at('socket'), done));
  const fs = folder.driver();
  for (const name of ['fifo', 'socket']) {
    const id = fs.find(name);
    for (const flags of [0, 1, O_RDWR, O_TRUNC]) t.equal(fs.open(id, flags).error, errno.ENXIO);
    t.equal(fs.create(ROOT, name, 1).error, errno.ENXIO);
    t.not(fs.setattr(id, { valid: fuse.FATTR_SIZE, size_: 0 }).error, 0);
  }
  server.close();
  // The host's own devices, shared.
  using devices = new FsDriver('/dev');
  for (const name of ['null', 'tty']) {
    t.equal(devices.open(devices.find(name)).error, errno.ENXIO, name);
  }
});

t.test('a file that was replaced on the host stays the one that the guest knows', async (t) => {
  using folder = withSecret();
  const fs = folder.driver();
  const [file, sub] = [fs.find('file'), fs.find('folder')];
  renameSync(folder.at('file'), folder.at('away'));
  symlinkSync('../secret', folder.at('file'));
  renameSync(folder.at('folder'), folder.at('elsewhere'));
  symlinkSync('..', folder.at('folder'));
  const read = fs.read(handleOf(fs.open(file)), 0, 100);
  t.equal(Buffer.from(read.bytes).toString(), 'content of the file');
  t.equal(fs.lookup(sub, 'secret').error, errno.ENOENT);
  t.equal(fs.create(sub, 'made').error, 0);
  t.same(readdirSync(folder.at('elsewhere')).sort(), ['inner', 'made']);
});

t.test('a link that others plant while a file is made is not followed', async (t) => {
  using folder = withSecret();
  symlinkSync('../planted', folder.at('new'));
  const fs = folder.driver();
  t.equal(fs.create(ROOT, 'new').error, errno.ELOOP);
  t.same(readdirSync(folder.outside('.')).sort(), ['secret', 'shared']);
  linkSync(folder.at('file'), folder.at('again'));
  t.equal(nodeOf(fs.lookup(ROOT, 'again')), fs.find('file'), 'a hard link is the file itself');
});

t.test('O_CREAT and others among the flags of an open do nothing', async (t) => {
  using folder = withSecret();
  const fs = folder.driver();
  const handle = handleOf(fs.open(fs.find('file'), 0o20000000 | O_CREAT | O_RDWR | 0o40000));
  t.equal(
    Buffer.from(fs.read(handle, 1, 3).bytes).toString(),
    'ont',
    'neither O_TMPFILE nor O_DIRECT',
  );
});

t.test('races of renames and links on the host', async (t) => {
  using folder = withSecret();
  mkdirSync(folder.at('real'));
  writeFileSync(folder.at('real/secret'), 'no secret');
  symlinkSync('..', folder.at('trap'));
  // Swaps a folder and a link that leads out, as fast as it can, until it is stopped.
  const words = new Int32Array(new SharedArrayBuffer(8));
  const swapper = new Worker(SWAPPER, {
    eval: true,
    execArgv: [],
    workerData: { path: folder.path, words },
  });
  const fs = folder.driver();
  const seen = new Set<string>();
  // At least one swap must come meanwhile, however late the worker is scheduled.
  for (let i = 0; i < 3000 || Atomics.load(words, 1) === 0; i++) {
    const id = fs.lookup(ROOT, i % 2 === 0 ? 'real' : 'trap');
    if (id.error !== 0) continue;
    const found = fs.lookup(nodeOf(id), 'secret');
    seen.add(found.error === 0 ? 'found' : `errno ${found.error}`);
    if (found.error !== 0) continue;
    const opened = fs.open(nodeOf(found));
    const read = fs.read(handleOf(opened), 0, 100);
    const content = Buffer.from(read.bytes).toString();
    if (content !== 'no secret') t.fail(`the guest read ${content}`);
    fs.release(handleOf(opened));
  }
  Atomics.store(words, 0, 1);
  await new Promise((done) => swapper.on('exit', done));
  t.ok(Atomics.load(words, 1) > 0, 'there were swaps meanwhile');
  t.ok(seen.has('found'), [...seen].join(', '));
});

const SWAPPER = `
const { renameSync } = require('node:fs');
const { words, path } = require('node:worker_threads').workerData;
const at = (name) => path + '/' + name;
while (Atomics.load(words, 0) === 0) {
  renameSync(at('real'), at('swap'));
  renameSync(at('trap'), at('real'));
  renameSync(at('swap'), at('trap'));
  Atomics.add(words, 1, 1);
}`;

t.test('what the guest made is gone with its folder, and no more', async (t) => {
  using folder = withSecret();
  const fs = folder.driver();
  const sub = fs.find('folder');
  rmSync(folder.at('folder'), { recursive: true });
  t.equal(fs.create(sub, 'late').error, errno.ENOENT);
  const made = fs.create(ROOT, 'made');
  t.equal(fs.write(createdHandle(made), 0, Buffer.from('x')).error, 0);
  const symlink = fs.request(fuse.FUSE_SYMLINK, ROOT, join(text('s'), text('../secret')), ENTRY);
  t.equal(symlink.error, 0, 'a link may have any target: the guest follows it within what it sees');
  t.equal(readFileSync(folder.outside('secret'), 'utf8'), SECRET);
});
