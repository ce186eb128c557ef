/** Extended attributes, POSIX ACLs among them. */
import {
  E2BIG,
  EACCES,
  EINVAL,
  ENODATA,
  EOPNOTSUPP,
  EPERM,
  ERANGE,
} from '../../../../abi/errno.ts';
import { AT_FDCWD, S_ISGID } from '../../../../abi/files.ts';
import * as fuse from '../../../../abi/fuse.ts';
import * as files from '../../../../host/file-system.ts';
import type { FileSystem } from '../file-system.ts';
import { BODY, type FuseRequest, OUTPUT_SIZE } from '../fuse-request.ts';
import type { Inode } from '../inode-table.ts';
import { isAccessAcl, isAcl } from '../xattr-names.ts';
import { type Operation, onInode } from './operation.ts';

/** XATTR_SIZE_MAX of linux/limits.h. */
const MOST_BYTES = 65536;
const FLAGS = 3;

/** Finds the attribute's name. Returns the address of the host's name for it, or a negative errno. */
function attribute(fs: FileSystem, request: FuseRequest, from: number): number {
  const refused = request.text(from);
  if (refused < 0) return refused;
  const { bytes, address } = request.input;
  // Without FUSE_POSIX_ACL the guest's kernel would use the mode, which means something else then.
  if (!fs.heedsAcls && isAcl(bytes, from)) return -EOPNOTSUPP;
  return fs.xattrs.toHost(bytes, address, from, request.rest - 1 - from);
}

/** Answers with a length, for a request of size 0. */
function answerLength(request: FuseRequest, length: number): number {
  request.output.view.setUint32(0, length, true);
  request.output.view.setUint32(4, 0, true);
  return fuse.fuse_getxattr_out.size;
}

/** Bytes of the struct, which FUSE_SETXATTR_EXT extends with flags: no name starts with such a byte. */
function headSize(request: FuseRequest): number {
  const { size, setxattr_flags } = fuse.fuse_setxattr_in;
  const byte = request.input.bytes[BODY + setxattr_flags.offset] ?? 0;
  return byte <= fuse.FUSE_SETXATTR_ACL_KILL_SGID ? size : fuse.FUSE_COMPAT_SETXATTR_IN_SIZE;
}

const setxattr = onInode(
  { takes: fuse.FUSE_COMPAT_SETXATTR_IN_SIZE, gives: 0, writes: true },
  (fs, request, inode) => {
    const { size, size_, flags, setxattr_flags } = fuse.fuse_setxattr_in;
    const head = headSize(request);
    const name = attribute(fs, request, BODY + head);
    if (name < 0) return name;
    const length = request.u32(BODY + size_.offset);
    const how = request.u32(BODY + flags.offset);
    if (length > MOST_BYTES) return -E2BIG;
    if (request.rest + length > request.length || (how & ~FLAGS) !== 0) return -EINVAL;
    const value = request.input.address + request.rest;
    const done = files.setxattr(fs.pathOf(inode.fd), name, value, length, how);
    const extended = head === size ? request.u32(BODY + setxattr_flags.offset) : 0;
    const kills = (extended & fuse.FUSE_SETXATTR_ACL_KILL_SGID) !== 0;
    if (done >= 0 && kills && isAccessAcl(request.input.bytes, BODY + head)) killGroup(fs, inode);
    return done;
  },
);

/** As Linux does when the user who sets an ACL is not in the file's group. */
function killGroup(fs: FileSystem, inode: Inode): void {
  if (fs.look(inode.fd) < 0 || (fs.stat.mode & S_ISGID) === 0) return;
  files.fchmodat(AT_FDCWD, fs.pathOf(inode.fd), fs.stat.mode & 0o7777 & ~S_ISGID);
}

const getxattr = onInode(
  { takes: fuse.fuse_getxattr_in.size, gives: 0, onUncrossed: true },
  (fs, request, inode) => {
    const from = BODY + fuse.fuse_getxattr_in.size;
    const name = attribute(fs, request, from);
    if (name < 0) return name;
    const size = request.u32(BODY);
    if (request.room < Math.min(size || fuse.fuse_getxattr_out.size, MOST_BYTES)) return -EINVAL;
    if (inode.isUncrossed) return -ENODATA;
    const to = request.output.address;
    const path = fs.pathOf(inode.fd);
    const got = files.getxattr(path, name, to, Math.min(size, OUTPUT_SIZE));
    if (got < 0) return absence(got, request, from, name);
    return size > 0 ? got : answerLength(request, got);
  },
);

/** The errno for an attribute that is unavailable: the guest's kernel requests some on its own. */
function absence(error: number, request: FuseRequest, from: number, name: number): number {
  // A file system without ACLs has none on any file; otherwise only its owner could access one.
  if (error === -EOPNOTSUPP && isAcl(request.input.bytes, from)) return -ENODATA;
  // Access to a mapped name is subject to the file's mode.
  const isMapped = name !== request.nameAddress;
  return isMapped && (error === -EACCES || error === -EPERM) ? -ENODATA : error;
}

const listxattr = onInode(
  { takes: fuse.fuse_getxattr_in.size, gives: 0, onUncrossed: true },
  (fs, request, inode) => {
    const size = request.u32(BODY);
    if (request.room < Math.min(size || fuse.fuse_getxattr_out.size, MOST_BYTES)) return -EINVAL;
    const { address, bytes } = request.output;
    const got = inode.isUncrossed ? 0 : files.listxattr(fs.pathOf(inode.fd), address, OUTPUT_SIZE);
    if (got < 0) return got;
    const kept = fs.xattrs.toGuest(bytes, got);
    if (size === 0) return answerLength(request, kept);
    return kept > size ? -ERANGE : kept;
  },
);

const removexattr = onInode({ takes: 0, gives: 0, writes: true }, (fs, request, inode) => {
  const name = attribute(fs, request, BODY);
  return name < 0 ? name : files.removexattr(fs.pathOf(inode.fd), name);
});

export const xattrOperations: ReadonlyMap<number, Operation> = new Map([
  [fuse.FUSE_SETXATTR, setxattr],
  [fuse.FUSE_GETXATTR, getxattr],
  [fuse.FUSE_LISTXATTR, listxattr],
  [fuse.FUSE_REMOVEXATTR, removexattr],
]);
