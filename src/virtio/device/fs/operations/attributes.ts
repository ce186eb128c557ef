/** Attributes of files and of the file system. */
import { EBADF, EINVAL, EISDIR } from '../../../../abi/errno.ts';
import * as abi from '../../../../abi/files.ts';
import * as fuse from '../../../../abi/fuse.ts';
import * as files from '../../../../host/file-system.ts';
import { NativeMemory } from '../../../../host/native-memory.ts';
import * as sys from '../../../../host/syscall.ts';
import { writeAttrOut } from '../attributes.ts';
import type { FileSystem } from '../file-system.ts';
import { BODY, type FuseRequest } from '../fuse-request.ts';
import type { Inode } from '../inode-table.ts';
import { beyond } from './files.ts';
import { type Operation, onInode } from './operation.ts';

const NOBODY = 0xffff_ffff;
const NANOSECONDS = 1e9;
const times = new NativeMemory(32);
const statfsOut = new NativeMemory(abi.statfs.size);

function answerAttributes(fs: FileSystem, request: FuseRequest, inode: Inode): number {
  const looked = inode.isUncrossed ? 0 : fs.look(inode.fd);
  return looked < 0 ? looked : writeAttrOut(request.output.view, 0, inode, fs.stat);
}

const getattr = onInode(
  { takes: fuse.fuse_getattr_in.size, gives: fuse.fuse_attr_out.size, onUncrossed: true },
  answerAttributes,
);

const set = fuse.fuse_setattr_in;

const setattr = onInode(
  { takes: set.size, gives: fuse.fuse_attr_out.size, writes: true },
  (fs, request, inode) => {
    const valid = request.u32(BODY + set.valid.offset);
    const done =
      setMode(fs, request, inode, valid) ||
      setOwner(fs, request, inode, valid) ||
      setSize(fs, request, inode, valid) ||
      setTimes(fs, request, inode, valid);
    return done < 0 ? done : answerAttributes(fs, request, inode);
  },
);

function setMode(fs: FileSystem, request: FuseRequest, inode: Inode, valid: number): number {
  if ((valid & fuse.FATTR_MODE) === 0) return 0;
  const mode = request.u32(BODY + set.mode.offset) & 0o7777;
  return files.fchmodat(abi.AT_FDCWD, fs.pathOf(inode.fd), mode);
}

function setOwner(fs: FileSystem, request: FuseRequest, inode: Inode, valid: number): number {
  if ((valid & (fuse.FATTR_UID | fuse.FATTR_GID)) === 0) return 0;
  const uid = (valid & fuse.FATTR_UID) === 0 ? NOBODY : request.u32(BODY + set.uid.offset);
  const gid = (valid & fuse.FATTR_GID) === 0 ? NOBODY : request.u32(BODY + set.gid.offset);
  const flags = abi.AT_EMPTY_PATH | abi.AT_SYMLINK_NOFOLLOW;
  const done = files.fchownat(inode.fd, fs.emptyName, uid, gid, flags);
  if (done >= 0 && inode.kind === abi.S_IFREG) fs.takeCapability(inode.fd);
  return done;
}

function setSize(fs: FileSystem, request: FuseRequest, inode: Inode, valid: number): number {
  if ((valid & fuse.FATTR_SIZE) === 0) return 0;
  const size = request.u64(BODY + set.size_.offset);
  if (inode.kind !== abi.S_IFREG) return inode.kind === abi.S_IFDIR ? -EISDIR : -EINVAL;
  if (size > Number.MAX_SAFE_INTEGER) return beyond(size);
  const kills = (valid & fuse.FATTR_KILL_SUIDGID) !== 0;
  // The caller's right to write was checked when the handle was opened.
  if ((valid & fuse.FATTR_FH) !== 0) {
    const handle = fs.fileAt(request, BODY + set.fh.offset);
    if (handle === undefined) return -EBADF;
    const done = sys.ftruncate(handle.fd, size);
    if (done >= 0) fs.takePrivileges(handle.fd, kills);
    return done;
  }
  const fd = fs.reopen(inode.fd, abi.O_WRONLY);
  if (fd < 0) return fd;
  const done = sys.ftruncate(fd, size);
  if (done >= 0) fs.takePrivileges(fd, kills);
  sys.close(fd);
  return done;
}

function setTimes(fs: FileSystem, request: FuseRequest, inode: Inode, valid: number): number {
  if ((valid & (fuse.FATTR_ATIME | fuse.FATTR_MTIME)) === 0) return 0;
  const atime =
    (valid & fuse.FATTR_ATIME) === 0
      ? abi.UTIME_OMIT
      : (valid & fuse.FATTR_ATIME_NOW) !== 0
        ? abi.UTIME_NOW
        : request.u32(BODY + set.atimensec.offset);
  const mtime =
    (valid & fuse.FATTR_MTIME) === 0
      ? abi.UTIME_OMIT
      : (valid & fuse.FATTR_MTIME_NOW) !== 0
        ? abi.UTIME_NOW
        : request.u32(BODY + set.mtimensec.offset);
  for (const nanoseconds of [atime, mtime]) {
    const stands = nanoseconds === abi.UTIME_NOW || nanoseconds === abi.UTIME_OMIT;
    if (nanoseconds >= NANOSECONDS && !stands) return -EINVAL;
  }
  const { bytes } = request.input;
  times.bytes.set(bytes.subarray(BODY + set.atime.offset, BODY + set.atime.offset + 8), 0);
  times.bytes.set(bytes.subarray(BODY + set.mtime.offset, BODY + set.mtime.offset + 8), 16);
  times.view.setUint32(8, atime, true);
  times.view.setUint32(24, mtime, true);
  return files.utimensat(abi.AT_FDCWD, fs.pathOf(inode.fd), times.address, 0);
}

const readlink = onInode({ takes: 0, gives: 0 }, (fs, request, inode) => {
  if (inode.kind !== abi.S_IFLNK) return -EINVAL;
  const room = Math.min(request.room, abi.PATH_MAX);
  return files.readlinkat(inode.fd, fs.emptyName, request.output.address, room);
});

const about = { takes: 0, gives: fuse.fuse_kstatfs.size, onUncrossed: true };

const statfs = onInode(about, (fs, request, inode) => {
  const { fd } = inode.isUncrossed ? fs.inodes.root : inode;
  const done = files.fstatfs(fd, statfsOut.address);
  if (done < 0) return done;
  const out = fuse.fuse_kstatfs;
  const { bytes, view } = request.output;
  bytes.fill(0, 0, out.size);
  const copied = [
    [abi.statfs.f_blocks, out.blocks],
    [abi.statfs.f_bfree, out.bfree],
    [abi.statfs.f_bavail, out.bavail],
    [abi.statfs.f_files, out.files],
    [abi.statfs.f_ffree, out.ffree],
    [abi.statfs.f_bsize, out.bsize],
    [abi.statfs.f_namelen, out.namelen],
    [abi.statfs.f_frsize, out.frsize],
  ] as const;
  for (const [from, { offset, length }] of copied) {
    for (let byte = 0; byte < length; byte += 4) {
      view.setUint32(offset + byte, statfsOut.view.getUint32(from.offset + byte, true), true);
    }
  }
  return out.size;
});

const syncfs = onInode({ takes: fuse.fuse_syncfs_in.size, gives: 0 }, (fs, _request, inode) => {
  if (inode.kind !== abi.S_IFDIR) return -EINVAL;
  const fd = files.openat(inode.fd, fs.dotName, abi.O_RDONLY | abi.O_DIRECTORY);
  if (fd < 0) return fd;
  const done = files.syncfs(fd);
  sys.close(fd);
  return done;
});

export const attributeOperations: ReadonlyMap<number, Operation> = new Map([
  [fuse.FUSE_GETATTR, getattr],
  [fuse.FUSE_SETATTR, setattr],
  [fuse.FUSE_READLINK, readlink],
  [fuse.FUSE_STATFS, statfs],
  [fuse.FUSE_SYNCFS, syncfs],
]);
