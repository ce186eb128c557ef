/**
 * Extended attributes of the name space `user`. The others mean something to the host: by
 * `security.capability` a guest could give programs there capabilities.
 */
import { E2BIG, EINVAL, EOPNOTSUPP, EPERM, ERANGE, EXDEV } from '../../../../abi/errno.ts';
import { S_IFDIR, S_IFREG } from '../../../../abi/files.ts';
import * as fuse from '../../../../abi/fuse.ts';
import * as files from '../../../../host/file-system.ts';
import { type FileSystem, UNKNOWN } from '../file-system.ts';
import { BODY, type FuseRequest, NODEID, OUTPUT_SIZE } from '../fuse-request.ts';
import type { Operation } from './operation.ts';

const PREFIX = Buffer.from('user.');
/** XATTR_SIZE_MAX of linux/limits.h. */
const MOST_BYTES = 65536;
const FLAGS = 3;

/** Address of the path of the file that the request is about, or a negative errno. */
function target(fs: FileSystem, request: FuseRequest): number {
  const inode = fs.inodeAt(request, NODEID);
  if (inode === undefined) return UNKNOWN;
  if (inode.isUncrossed) return -EXDEV;
  // Others have none in this name space, xattr(7).
  return inode.kind === S_IFREG || inode.kind === S_IFDIR ? fs.pathOf(inode.fd) : -EPERM;
}

/** Finds the attribute's name. Returns 0, or a negative errno. */
function attribute(request: FuseRequest, from: number): number {
  const refused = request.text(from);
  if (refused < 0) return refused;
  const { bytes } = request.input;
  return PREFIX.every((byte, i) => bytes[from + i] === byte) ? 0 : -EOPNOTSUPP;
}

/** Answers with how long something is, to who asked for no byte of it. */
function answerLength(request: FuseRequest, length: number): number {
  request.output.view.setUint32(0, length, true);
  request.output.view.setUint32(4, 0, true);
  return fuse.fuse_getxattr_out.size;
}

const setxattr: Operation = {
  takes: fuse.fuse_setxattr_in.size,
  gives: 0,
  writes: true,
  run(fs: FileSystem, request: FuseRequest): number {
    const refused = attribute(request, BODY + fuse.fuse_setxattr_in.size);
    if (refused < 0) return refused;
    const size = request.u32(BODY + fuse.fuse_setxattr_in.size_.offset);
    const flags = request.u32(BODY + fuse.fuse_setxattr_in.flags.offset);
    if (size > MOST_BYTES) return -E2BIG;
    if (request.rest + size > request.length || (flags & ~FLAGS) !== 0) return -EINVAL;
    const path = target(fs, request);
    if (path < 0) return path;
    const value = request.input.address + request.rest;
    return files.setxattr(path, request.nameAddress, value, size, flags);
  },
};

const getxattr: Operation = {
  takes: fuse.fuse_getxattr_in.size,
  gives: 0,
  run(fs: FileSystem, request: FuseRequest): number {
    const refused = attribute(request, BODY + fuse.fuse_getxattr_in.size);
    if (refused < 0) return refused;
    const size = request.u32(BODY);
    if (request.room < Math.min(size || fuse.fuse_getxattr_out.size, MOST_BYTES)) return -EINVAL;
    const path = target(fs, request);
    if (path < 0) return path;
    const to = request.output.address;
    const got = files.getxattr(path, request.nameAddress, to, Math.min(size, OUTPUT_SIZE));
    return size > 0 || got < 0 ? got : answerLength(request, got);
  },
};

/** Leaves the names of this name space in the list. Returns its new length. */
function keepOwn(bytes: Uint8Array, length: number): number {
  let kept = 0;
  for (let from = 0; from < length; ) {
    const end = bytes.indexOf(0, from) + 1;
    if (PREFIX.every((byte, i) => bytes[from + i] === byte)) {
      bytes.copyWithin(kept, from, end);
      kept += end - from;
    }
    from = end;
  }
  return kept;
}

const listxattr: Operation = {
  takes: fuse.fuse_getxattr_in.size,
  gives: 0,
  run(fs: FileSystem, request: FuseRequest): number {
    const size = request.u32(BODY);
    if (request.room < Math.min(size || fuse.fuse_getxattr_out.size, MOST_BYTES)) return -EINVAL;
    const path = target(fs, request);
    if (path < 0) return path;
    const got = files.listxattr(path, request.output.address, OUTPUT_SIZE);
    if (got < 0) return got;
    const kept = keepOwn(request.output.bytes, got);
    if (size === 0) return answerLength(request, kept);
    return kept > size ? -ERANGE : kept;
  },
};

const removexattr: Operation = {
  takes: 0,
  gives: 0,
  writes: true,
  run(fs: FileSystem, request: FuseRequest): number {
    const refused = attribute(request, BODY);
    if (refused < 0) return refused;
    const path = target(fs, request);
    return path < 0 ? path : files.removexattr(path, request.nameAddress);
  },
};

export const xattrOperations: ReadonlyMap<number, Operation> = new Map([
  [fuse.FUSE_SETXATTR, setxattr],
  [fuse.FUSE_GETXATTR, getxattr],
  [fuse.FUSE_LISTXATTR, listxattr],
  [fuse.FUSE_REMOVEXATTR, removexattr],
]);
