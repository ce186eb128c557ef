/** Names in folders, by requests of linux/fuse.h to the file system device. */
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import t from 'tap';
import * as errno from '../../../../src/abi/errno.ts';
import { S_IFSOCK } from '../../../../src/abi/files.ts';
import * as fuse from '../../../../src/abi/fuse.ts';
import {
  attribute,
  direntsOf,
  field,
  handleOf,
  join,
  nodeOf,
  openDescriptors,
  pack,
  SharedFolder,
  text,
} from '../../../support/rigs/fs-driver.ts';

const ROOT = fuse.FUSE_ROOT_ID;
const ENTRY = fuse.fuse_entry_out;
const CONTENT = 'content of the file';
const SKIP_UNLESS_ROOT = process.getuid?.() === 0 ? false : 'needs root';

t.test('LOOKUP, GETATTR and FORGET', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const found = fs.lookup(ROOT, 'file');
  const stats = statSync(folder.at('file'));
  const id = nodeOf(found);
  t.equal(attribute(found, 'size_', ENTRY), CONTENT.length);
  t.equal(attribute(found, 'ino', ENTRY), stats.ino);
  t.equal(attribute(found, 'mode', ENTRY), stats.mode);
  t.equal(field(found.data, ENTRY.entry_valid), 1, 'seconds that it may be kept');
  t.equal(nodeOf(fs.lookup(ROOT, 'file')), id, 'the same file is the same node');
  t.equal(attribute(fs.getattr(id), 'mtime'), Math.floor(stats.mtimeMs / 1000));
  t.equal(fs.lookup(ROOT, 'none').error, errno.ENOENT);
  t.equal(fs.lookup(id, 'x').error, errno.ENOTDIR);
  t.equal(fs.lookup(4711, 'file').error, errno.ESTALE);
  fs.forget(id, 1);
  t.equal(fs.getattr(id).error, 0, 'it was looked up twice');
  fs.forget(id, 1);
  t.equal(fs.getattr(id).error, errno.ESTALE);
  t.not(nodeOf(fs.lookup(ROOT, 'file')), id, 'no ID is used twice');
  fs.forget(ROOT, 1);
  t.equal(fs.getattr(ROOT).error, 0, 'the root stays');
});

t.test('BATCH_FORGET', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const before = openDescriptors();
  const ids = [fs.find('file'), fs.find('folder'), fs.find('folder', 'inner')];
  t.equal(openDescriptors(), before + 3);
  const entries = ids.map((nodeid) => pack(fuse.fuse_forget_one, { nodeid, nlookup: 9 }));
  const batch = (count: number): void =>
    fs.sendOneWay(
      fuse.FUSE_BATCH_FORGET,
      0,
      join(pack(fuse.fuse_batch_forget_in, { count }), ...entries),
    );
  batch(4);
  t.equal(openDescriptors(), before + 3, 'more than there are: none');
  batch(3);
  t.equal(openDescriptors(), before);
  t.same(
    ids.map((id) => fs.getattr(id).error),
    ids.map(() => errno.ESTALE),
  );
});

t.test('new files are the caller’s', { skip: SKIP_UNLESS_ROOT }, async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  [fs.uid, fs.gid] = [1234, 567];
  fs.create(ROOT, 'file2');
  const entry = ENTRY.size;
  const dir = join(pack(fuse.fuse_mkdir_in, { mode: 0o2777 }), text('dir'));
  t.equal(fs.request(fuse.FUSE_MKDIR, ROOT, dir, entry).error, 0);
  fs.request(fuse.FUSE_SYMLINK, ROOT, join(text('symlink'), text('x')), entry);
  const node = join(pack(fuse.fuse_mknod_in, { mode: S_IFSOCK | 0o600 }), text('node'));
  t.equal(fs.request(fuse.FUSE_MKNOD, ROOT, node, entry).error, 0);
  for (const name of ['file2', 'dir', 'symlink', 'node']) {
    const { uid, gid } = lstatSync(folder.at(name));
    t.same([uid, gid], [1234, 567], name);
  }
  fs.gid = 89;
  chmodSync(folder.at('dir'), 0o2777);
  fs.create(fs.find('dir'), 'inner');
  t.equal(statSync(folder.at('dir/inner')).gid, 567, 'a set-group-ID folder gives its group');
  [fs.uid, fs.gid] = [0, 0];
  fs.create(ROOT, 'own');
  t.equal(statSync(folder.at('own')).uid, 0);
  t.equal(process.umask(), 0o22, 'the process is as before');
  writeFileSync(folder.at('ours'), '');
  t.equal(statSync(folder.at('ours')).uid, 0);
});

t.test('MKDIR, RMDIR, SYMLINK, READLINK, LINK, MKNOD, UNLINK', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const room = ENTRY.size;
  const mkdir = join(pack(fuse.fuse_mkdir_in, { mode: 0o715 }), text('made'));
  const made = fs.request(fuse.FUSE_MKDIR, ROOT, mkdir, room);
  t.equal(attribute(made, 'mode', ENTRY), 0o40715);
  t.equal(fs.request(fuse.FUSE_MKDIR, ROOT, mkdir, room).error, errno.EEXIST);
  t.equal(fs.request(fuse.FUSE_RMDIR, ROOT, text('folder')).error, errno.ENOTEMPTY);
  t.equal(fs.request(fuse.FUSE_RMDIR, ROOT, text('made')).error, 0);
  t.equal(fs.request(fuse.FUSE_UNLINK, ROOT, text('folder')).error, errno.EISDIR);
  const target = '../where ever/ä';
  const symlink = fs.request(fuse.FUSE_SYMLINK, ROOT, join(text('s'), text(target)), room);
  t.equal(readlinkSync(folder.at('s')), target);
  const read = fs.request(fuse.FUSE_READLINK, nodeOf(symlink), new Uint8Array(0), 4095);
  t.equal(Buffer.from(read.bytes).toString(), target);
  t.equal(
    fs.request(fuse.FUSE_READLINK, fs.find('file'), new Uint8Array(0), 99).error,
    errno.EINVAL,
  );
  for (const [name, id] of [
    ['hard', fs.find('file')],
    ['hard-link-to-link', nodeOf(symlink)],
  ] as const) {
    const link = join(pack(fuse.fuse_link_in, { oldnodeid: id }), text(name));
    t.equal(nodeOf(fs.request(fuse.FUSE_LINK, ROOT, link, room)), id);
    t.equal(lstatSync(folder.at(name)).nlink, 2);
  }
  const mknod = (mode: number, name: string): number =>
    fs.request(
      fuse.FUSE_MKNOD,
      ROOT,
      join(pack(fuse.fuse_mknod_in, { mode, rdev: 0x103 }), text(name)),
      room,
    ).error;
  t.equal(mknod(0o100644, 'plain'), 0);
  t.equal(mknod(0o010644, 'fifo'), 0);
  t.ok(lstatSync(folder.at('fifo')).isFIFO());
  for (const mode of [0o020666, 0o060666, 0o040755, 0o120777])
    t.equal(mknod(mode, 'n'), errno.EPERM);
  t.equal(fs.request(fuse.FUSE_UNLINK, ROOT, text('hard')).error, 0);
  t.equal(fs.request(fuse.FUSE_UNLINK, ROOT, text('hard')).error, errno.ENOENT);
});

t.test('RENAME and RENAME2', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const [id, sub] = [fs.find('file'), fs.find('folder')];
  const names = (from: string, to: string): Uint8Array => join(text(from), text(to));
  const rename = join(pack(fuse.fuse_rename_in, { newdir: sub }), names('file', 'moved'));
  t.equal(fs.request(fuse.FUSE_RENAME, ROOT, rename).error, 0);
  t.equal(fs.find('folder', 'moved'), id, 'it is the same file');
  const rename2 = (flags: number, from: string, to: string): number =>
    fs.request(
      fuse.FUSE_RENAME2,
      sub,
      join(pack(fuse.fuse_rename2_in, { newdir: sub, flags }), names(from, to)),
    ).error;
  t.equal(rename2(1, 'moved', 'inner'), errno.EEXIST, 'RENAME_NOREPLACE');
  t.equal(rename2(2, 'moved', 'inner'), 0, 'RENAME_EXCHANGE');
  t.equal(readFileSync(folder.at('folder/inner'), 'utf8'), CONTENT);
  t.equal(rename2(8, 'moved', 'inner'), errno.EINVAL);
  t.equal(rename2(6, 'moved', 'inner'), errno.EINVAL, 'RENAME_WHITEOUT and RENAME_EXCHANGE');
  t.equal(rename2(0, 'moved', 'inner'), 0);
  t.same(readdirSync(folder.at('folder')), ['inner']);
  const stale = join(pack(fuse.fuse_rename_in, { newdir: 77 }), names('inner', 'x'));
  t.equal(fs.request(fuse.FUSE_RENAME, sub, stale).error, errno.ESTALE);
});

t.test('READDIR and READDIRPLUS of many entries, also from the middle', async (t) => {
  using folder = new SharedFolder();
  mkdirSync(folder.at('many'));
  const wanted = Array.from({ length: 300 }, (_, i) => `entry ${'x'.repeat(i % 40)} ${i}`);
  for (const name of wanted) writeFileSync(folder.at(`many/${name}`), '');
  const fs = folder.driver({ maxFiles: 1000 });
  const id = fs.find('many');
  const before = openDescriptors();
  for (const opcode of [fuse.FUSE_READDIR, fuse.FUSE_READDIRPLUS]) {
    const plus = opcode === fuse.FUSE_READDIRPLUS;
    const opened = fs.request(fuse.FUSE_OPENDIR, id, pack(fuse.fuse_open_in), 16);
    const fh = handleOf(opened);
    const list = (offset: bigint, size = 1500): ReturnType<typeof direntsOf> => {
      const body = pack(fuse.fuse_read_in, { fh, offset, size_: size });
      const result = fs.request(opcode, id, body, size);
      t.equal(result.error, 0);
      return direntsOf(result, plus);
    };
    const all: ReturnType<typeof direntsOf> = [];
    for (let next = list(0n); next.length > 0; next = list(all.at(-1)?.off ?? 0n)) {
      all.push(...next);
    }
    const names = all.map(({ name }) => name).filter((name) => !/^\.\.?$/.test(name));
    t.same(names.sort(), [...wanted].sort(), `each once, by opcode ${opcode}`);
    t.equal(all.length, wanted.length + 2);
    t.equal(list(all[99]?.off ?? 0n)[0]?.name, all[100]?.name);
    t.equal(list(0n)[0]?.name, all[0]?.name);
    const inner = all.find(({ name }) => name === wanted[7]);
    t.equal(inner?.type, 8, 'DT_REG');
    if (plus) t.equal(inner?.nodeid, fs.find('many', wanted[7] ?? ''));
    const short = pack(fuse.fuse_read_in, { fh, size_: 20 });
    t.equal(fs.request(opcode, id, short, 20).error, errno.EINVAL, 'no room for one entry');
    t.equal(fs.request(fuse.FUSE_FSYNCDIR, id, pack(fuse.fuse_fsync_in, { fh })).error, 0);
    t.equal(fs.release(fh).error, errno.EBADF, 'it is no file');
    t.equal(fs.release(fh, fuse.FUSE_RELEASEDIR).error, 0);
    if (!plus) t.equal(openDescriptors(), before, 'READDIR holds no file');
  }
  const body = pack(fuse.fuse_open_in);
  t.equal(fs.request(fuse.FUSE_OPENDIR, fs.find('file'), body, 16).error, errno.ENOTDIR);
});
