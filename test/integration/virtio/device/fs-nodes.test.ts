/** Device nodes, whiteouts, and files without a name. */
import { spawnSync } from 'node:child_process';
import { lstatSync, readFileSync } from 'node:fs';
import t from 'tap';
import * as errno from '../../../../src/abi/errno.ts';
import {
  AT_FDCWD,
  O_EXCL,
  O_RDONLY,
  O_RDWR,
  O_TMPFILE,
  RENAME_WHITEOUT,
  S_IFBLK,
  S_IFCHR,
} from '../../../../src/abi/files.ts';
import * as fuse from '../../../../src/abi/fuse.ts';
import * as files from '../../../../src/host/file-system.ts';
import { NativeMemory } from '../../../../src/host/native-memory.ts';
import {
  attribute,
  createdHandle,
  type FsDriver,
  type FuseResult,
  join,
  nodeOf,
  pack,
  SharedFolder,
  text,
} from '../../../support/rigs/fs-driver.ts';

const ROOT = fuse.FUSE_ROOT_ID;
const ENTRY = fuse.fuse_entry_out;
const SKIP_UNLESS_ROOT = process.getuid?.() === 0 ? false : 'needs root';

t.test('device nodes are created if enabled', { skip: SKIP_UNLESS_ROOT }, async (t) => {
  using folder = new SharedFolder();
  const mknod = (fs: FsDriver, name: string, mode: number, rdev: number): FuseResult =>
    fs.request(
      fuse.FUSE_MKNOD,
      ROOT,
      join(pack(fuse.fuse_mknod_in, { mode, rdev }), text(name)),
      ENTRY.size,
    );
  const by = folder.driver();
  t.equal(mknod(by, 'null', S_IFCHR | 0o666, 0x103).error, errno.EPERM);
  t.equal(mknod(by, 'disk', S_IFBLK | 0o660, 0x100).error, errno.EPERM);
  t.equal(mknod(by, 'block0', S_IFBLK | 0o660, 0).error, errno.EPERM);
  t.equal(mknod(by, 'whiteout', S_IFCHR, 0).error, 0, 'which is no device');
  const fs = folder.driver({ mknod: true });
  const made = mknod(fs, 'null', S_IFCHR | 0o666, 0x103);
  if (made.error === errno.EPERM) return t.comment('the process may not (CAP_MKNOD)');
  // 12 bits of major and 20 of minor, as the kernel's new_encode_dev.
  const [major, minor] = [0xabc, 0xdef12];
  const wide = ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
  const disk = mknod(fs, 'disk', S_IFBLK | 0o660, wide);
  t.equal(attribute(disk, 'rdev', ENTRY), wide);
  const stat = spawnSync('stat', ['-c', '%t %T %F', folder.at('disk'), folder.at('null')]);
  const lines = String(stat.stdout).trim().split('\n');
  t.same(lines, ['abc def12 block special file', '1 3 character special file']);
  t.equal(fs.open(nodeOf(made)).error, errno.ENXIO, 'but opened by the guest’s kernel alone');
  t.equal(mknod(fs, 'folder2', 0o040755, 0).error, errno.EPERM);
  t.equal(mknod(fs, 'link', 0o120777, 0).error, errno.EPERM);
});

t.test('RENAME_WHITEOUT', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const body = join(
    pack(fuse.fuse_rename2_in, { newdir: ROOT, flags: RENAME_WHITEOUT }),
    text('file'),
    text('moved'),
  );
  // tmpfs and ext4 have them, and others: EINVAL.
  const { error } = fs.request(fuse.FUSE_RENAME2, ROOT, body);
  if (error === errno.EINVAL && !makesWhiteouts(folder)) {
    return t.comment('the file system has none');
  }
  t.equal(error, 0);
  const { rdev, mode } = lstatSync(folder.at('file'));
  t.same([rdev, mode & 0o170000], [0, S_IFCHR]);
});

/** Whether the host's file system does. */
function makesWhiteouts(folder: SharedFolder): boolean {
  const [from, to] = ['folder', 'other'].map((name) => {
    const path = text(folder.at(name));
    const memory = new NativeMemory(path.length);
    memory.bytes.set(path);
    return memory;
  }) as [NativeMemory, NativeMemory];
  const done = files.renameat2(AT_FDCWD, from.address, AT_FDCWD, to.address, RENAME_WHITEOUT);
  return done >= 0;
}

t.test('O_TMPFILE: a file without a name, which may get one', async (t) => {
  using folder = new SharedFolder();
  const fs = folder.driver();
  const tmpfile = (flags: number, mode = 0o640, parent = ROOT): FuseResult => {
    // Linux names it "/".
    const body = join(pack(fuse.fuse_create_in, { flags, mode, umask: 0o022 }), text('/'));
    return fs.request(fuse.FUSE_TMPFILE, parent, body, ENTRY.size + fuse.fuse_open_out.size);
  };
  const link = (id: number, name: string): number =>
    fs.request(
      fuse.FUSE_LINK,
      ROOT,
      join(pack(fuse.fuse_link_in, { oldnodeid: id }), text(name)),
      ENTRY.size,
    ).error;
  const made = tmpfile(O_RDWR | O_TMPFILE, 0o666);
  if (made.error === errno.EOPNOTSUPP) return t.comment('the file system has none');
  t.equal(attribute(made, 'nlink', ENTRY), 0);
  t.equal(attribute(made, 'mode', ENTRY) & 0o777, 0o644);
  t.equal(fs.write(createdHandle(made), 0, Buffer.from('text')).error, 0);
  t.equal(link(nodeOf(made), 'named'), 0);
  t.equal(readFileSync(folder.at('named'), 'utf8'), 'text');
  t.equal(fs.find('named'), nodeOf(made));
  const exclusive = tmpfile(O_RDWR | O_TMPFILE | O_EXCL);
  t.equal(exclusive.error, 0);
  t.equal(link(nodeOf(exclusive), 'never'), errno.ENOENT);
  t.equal(tmpfile(O_RDONLY | O_TMPFILE).error, errno.EINVAL);
  t.equal(tmpfile(O_RDWR, 0o600, fs.find('file')).error, errno.ENOTDIR);
  const fixed = folder.driver({ readOnly: true });
  const body = join(pack(fuse.fuse_create_in, { flags: O_RDWR, mode: 0o600 }), text('/'));
  const room = ENTRY.size + fuse.fuse_open_out.size;
  t.equal(fixed.request(fuse.FUSE_TMPFILE, ROOT, body, room).error, errno.EROFS);
});
