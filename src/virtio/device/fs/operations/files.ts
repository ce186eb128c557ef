/** Open files: their data. HOT: `read` and `write`, whose data goes straight between file and guest memory. */
import {
  EBADF,
  EFBIG,
  EINTR,
  EINVAL,
  EISDIR,
  ELOOP,
  ENXIO,
  EOPNOTSUPP,
  EPERM,
  EROFS,
  EXDEV,
} from '../../../../abi/errno.ts';
import * as abi from '../../../../abi/files.ts';
import * as fuse from '../../../../abi/fuse.ts';
import * as files from '../../../../host/file-system.ts';
import { NativeMemory } from '../../../../host/native-memory.ts';
import * as sys from '../../../../host/syscall.ts';
import type { FileSystem } from '../file-system.ts';
import { ANSWER, BODY, type FuseRequest, WRITE_HEAD } from '../fuse-request.ts';
import type { FileHandle } from '../handle-table.ts';
import type { Inode } from '../inode-table.ts';
import { INTERRUPTED, type Operation, onFile, onInode, release } from './operation.ts';
import { MAX_WRITE } from './session.ts';

/** The largest number exact in a double; more than any file has. */
const LARGEST = Number.MAX_SAFE_INTEGER;
/** Bytes of one COPY_FILE_RANGE: other requests wait meanwhile. */
const MOST_COPIED = 16 * 2 ** 20;
/** Bytes of one fallocate: other requests may wait meanwhile, but no stop. */
const MOST_ALLOCATED = 256 * 2 ** 20;
/** From here on an offset is negative to the system calls. */
const OFFSET_END = 2 ** 63;
/** Not O_NONBLOCK and O_DIRECT, which fcntl(2) may change: the guest's own kernel handles them. */
const FLAGS = abi.O_ACCMODE | abi.O_APPEND | abi.O_TRUNC | abi.O_SYNC | abi.O_DSYNC | abi.O_NOATIME;
const F_GETFL = 3;

/** The errno for an offset or length that is not exact in a double. */
export function beyond(bytes: number): number {
  return bytes >= OFFSET_END ? -EINVAL : -EFBIG;
}

/** The flags of an open that are passed on, or a negative errno. */
export function permittedFlags(asked: number): number {
  return (asked & abi.O_ACCMODE) === abi.O_ACCMODE ? -EINVAL : asked & FLAGS;
}

/**
 * Opens an inode again. Only regular files are opened on the host: a FIFO would block the thread, and
 * a device have side effects. Guests handle both themselves.
 * @param opening `open_flags` of the request
 * @returns a descriptor, or a negative errno
 */
export function openRegular(fs: FileSystem, inode: Inode, flags: number, opening: number): number {
  if (inode.isUncrossed) return -EXDEV;
  if (inode.kind !== abi.S_IFREG) {
    return inode.kind === abi.S_IFDIR ? -EISDIR : inode.kind === abi.S_IFLNK ? -ELOOP : -ENXIO;
  }
  const writes = (flags & abi.O_ACCMODE) !== abi.O_RDONLY || (flags & abi.O_TRUNC) !== 0;
  if (fs.readOnly && writes) return -EROFS;
  const fd = reopenAs(fs, inode, flags);
  if (fd >= 0 && (flags & abi.O_TRUNC) !== 0) {
    fs.takePrivileges(fd, (opening & fuse.FUSE_OPEN_KILL_SUIDGID) !== 0);
  }
  return fd;
}

/**
 * Without O_APPEND: the handle also carries the guest's writes to mapped pages, and fcntl(2) may
 * clear the flag. Each WRITE has its own.
 */
function reopenAs(fs: FileSystem, inode: Inode, flags: number): number {
  const fd = fs.reopen(inode.fd, flags & ~abi.O_APPEND);
  if (fd !== -EPERM) return fd;
  // A file with the attribute "a" (chattr(1)) can be opened no other way.
  const appending = (flags & abi.O_APPEND) === 0 ? fd : fs.reopen(inode.fd, flags);
  if (appending !== -EPERM || (flags & abi.O_NOATIME) === 0) return appending;
  // Only the owner may use O_NOATIME, and nodevmm need not be the owner.
  return reopenAs(fs, inode, flags & ~abi.O_NOATIME);
}

/**
 * Answers with a handle.
 * @param at where in the answer
 * @param fd owned from here on
 * @returns bytes of the answer, or a negative errno
 */
export function openHandle(
  fs: FileSystem,
  request: FuseRequest,
  at: number,
  fd: number,
  flags: number,
): number {
  const handle = fs.handles.open(fd, false);
  if (typeof handle === 'number') return handle;
  handle.appendOnly = (flags & abi.O_APPEND) !== 0 && (sys.fcntl(fd, F_GETFL) & abi.O_APPEND) !== 0;
  // A handle that was not written to has no errors to report when it closes.
  const writes = (flags & abi.O_ACCMODE) !== abi.O_RDONLY;
  return writeOpenOut(request, at, handle, writes ? 0 : fuse.FOPEN_NOFLUSH);
}

/** Writes a `struct fuse_open_out`. Returns its size. */
export function writeOpenOut(
  request: FuseRequest,
  at: number,
  handle: FileHandle,
  flags: number,
): number {
  const { view } = request.output;
  const out = fuse.fuse_open_out;
  view.setUint32(at + out.fh.offset, handle.low, true);
  view.setUint32(at + out.fh.offset + 4, handle.high, true);
  view.setUint32(at + out.open_flags.offset, flags, true);
  view.setUint32(at + out.padding.offset, 0, true);
  return out.size;
}

const open = onInode(
  {
    takes: fuse.fuse_open_in.size,
    gives: fuse.fuse_open_out.size,
  },
  (fs, request, inode) => {
    const flags = permittedFlags(request.u32(BODY));
    if (flags < 0) return flags;
    const opening = request.u32(BODY + fuse.fuse_open_in.open_flags.offset);
    const fd = openRegular(fs, inode, flags, opening);
    if (fd < 0) return fd;
    return openHandle(fs, request, 0, fd, flags);
  },
);

const read = onFile(
  {
    takes: fuse.fuse_read_in.size,
    gives: 0,
  },
  (_fs, request, handle) => {
    const position = request.u64(BODY + fuse.fuse_read_in.offset.offset);
    const size = request.u32(BODY + fuse.fuse_read_in.size_.offset);
    if (position + size > LARGEST || size > MAX_WRITE) return -EINVAL;
    const { data } = request;
    if (!data.take(true, ANSWER, size)) return -EINVAL;
    request.placed = true;
    let done = 0;
    // The driver takes a short read for the end of the file, so it must be the end.
    while (done < size) {
      const got = sys.preadv(handle.fd, data.address, data.count, position + done);
      if (got === -EINTR) continue;
      if (got <= 0) return done > 0 ? done : got;
      done += got;
      if (done < size) data.advance(got);
    }
    return done;
  },
);

const write = onFile(
  {
    takes: fuse.fuse_write_in.size,
    gives: fuse.fuse_write_out.size,
    writes: true,
  },
  (fs, request, handle) => {
    const position = request.u64(BODY + fuse.fuse_write_in.offset.offset);
    const size = request.u32(BODY + fuse.fuse_write_in.size_.offset);
    if (WRITE_HEAD + size > request.length || size > MAX_WRITE) return -EINVAL;
    if (position + size > LARGEST) return beyond(position + size);
    const how = request.u32(BODY + fuse.fuse_write_in.write_flags.offset);
    const flags = request.u32(BODY + fuse.fuse_write_in.flags.offset);
    // Appends go after what others on the host appended meanwhile. Pages of a mapping have
    // fixed positions, whatever handle they come by.
    let appends = (flags & abi.O_APPEND) !== 0 && (how & fuse.FUSE_WRITE_CACHE) === 0;
    if (handle.appendOnly && !appends) return -EPERM;
    fs.takePrivileges(handle.fd, (how & fuse.FUSE_WRITE_KILL_SUIDGID) !== 0);
    const { data } = request;
    if (!data.take(false, WRITE_HEAD, size)) return -EINVAL;
    let done = 0;
    while (done < size) {
      const { address, count } = data;
      const at = position + done;
      const put = appends
        ? sys.pwritev2(handle.fd, address, count, at, abi.RWF_APPEND)
        : sys.pwritev(handle.fd, address, count, at);
      if (put === -EINTR) continue;
      if (put === -EOPNOTSUPP && appends) {
        // As most of /proc and /sys, which have no end.
        appends = false;
        continue;
      }
      if (put < 0 && done === 0) return put;
      if (put <= 0) break;
      done += put;
      if (done < size) data.advance(put);
    }
    return writeCount(request, done);
  },
);

function writeCount(request: FuseRequest, count: number): number {
  request.output.view.setUint32(0, count, true);
  request.output.view.setUint32(4, 0, true);
  return fuse.fuse_write_out.size;
}

const releaseFile = onFile({ takes: fuse.fuse_release_in.size, gives: 0 }, release);

/** Some file systems, such as NFS, report a failed write only at close. */
const flush = onFile(
  {
    takes: fuse.fuse_flush_in.size,
    gives: 0,
  },
  (_fs, _request, handle) => {
    const fd = files.dup(handle.fd);
    return fd < 0 ? fd : sys.close(fd);
  },
);

const fsync = onFile(
  {
    takes: fuse.fuse_fsync_in.size,
    gives: 0,
  },
  (_fs, request, handle) => {
    const flags = request.u32(BODY + fuse.fuse_fsync_in.fsync_flags.offset);
    const dataOnly = (flags & fuse.FUSE_FSYNC_FDATASYNC) !== 0;
    return dataOnly ? sys.fdatasync(handle.fd) : files.fsync(handle.fd);
  },
);

const fallocate = onFile(
  {
    takes: fuse.fuse_fallocate_in.size,
    gives: 0,
    writes: true,
  },
  (fs, request, handle) => {
    const { offset, length, mode } = fuse.fuse_fallocate_in;
    const from = request.u64(BODY + offset.offset);
    const bytes = request.u64(BODY + length.offset);
    if (from + bytes > LARGEST) return beyond(from + bytes);
    const how = request.u32(BODY + mode.offset);
    const known = abi.FALLOC_FL_KEEP_SIZE | abi.FALLOC_FL_PUNCH_HOLE | abi.FALLOC_FL_ZERO_RANGE;
    if ((how & ~known) !== 0) return -EOPNOTSUPP;
    let done = 0;
    // A piece at a time: nothing ends the call before it is done.
    for (let at = 0; at === 0 || at < bytes; at += MOST_ALLOCATED) {
      if (at > 0 && fs.isInterrupted()) return INTERRUPTED;
      done = sys.fallocate(handle.fd, how, from + at, Math.min(bytes - at, MOST_ALLOCATED));
      if (done < 0) return done;
    }
    fs.takePrivileges(handle.fd, !request.mayKeepIds);
    return done;
  },
);

const lseek = onFile(
  {
    takes: fuse.fuse_lseek_in.size,
    gives: fuse.fuse_lseek_out.size,
  },
  (_fs, request, handle) => {
    const from = request.u64(BODY + fuse.fuse_lseek_in.offset.offset);
    const whence = request.u32(BODY + fuse.fuse_lseek_in.whence.offset);
    if (from > LARGEST || (whence !== abi.SEEK_DATA && whence !== abi.SEEK_HOLE)) return -EINVAL;
    const found = files.lseek(handle.fd, from, whence);
    if (found < 0) return found;
    request.output.view.setUint32(0, found >>> 0, true);
    request.output.view.setUint32(4, Math.floor(found / 2 ** 32), true);
    return fuse.fuse_lseek_out.size;
  },
);

const offsets = new NativeMemory(16);

const copyFileRange: Operation = {
  takes: fuse.fuse_copy_file_range_in.size,
  gives: fuse.fuse_write_out.size,
  writes: true,
  run(fs: FileSystem, request: FuseRequest): number {
    const at = fuse.fuse_copy_file_range_in;
    const from = fs.fileAt(request, BODY + at.fh_in.offset);
    const to = fs.fileAt(request, BODY + at.fh_out.offset);
    if (from === undefined || to === undefined) return -EBADF;
    const bytes = Math.min(request.u64(BODY + at.len.offset), MOST_COPIED);
    const ends = [at.off_in, at.off_out].map(({ offset }) => request.u64(BODY + offset) + bytes);
    if (ends.some((end) => end > LARGEST) || request.u64(BODY + at.flags.offset) !== 0) {
      return -EINVAL;
    }
    const { bytes: input } = request.input;
    const copy = (where: number, offset: number): void => {
      offsets.bytes.set(input.subarray(BODY + offset, BODY + offset + 8), where);
    };
    copy(0, at.off_in.offset);
    copy(8, at.off_out.offset);
    const done = files.copyFileRange(from.fd, offsets.address, to.fd, offsets.address + 8, bytes);
    if (done < 0) return done;
    if (done > 0) fs.takePrivileges(to.fd, !request.mayKeepIds);
    return writeCount(request, done);
  },
};

export const fileOperations: ReadonlyMap<number, Operation> = new Map([
  [fuse.FUSE_OPEN, open],
  [fuse.FUSE_READ, read],
  [fuse.FUSE_WRITE, write],
  [fuse.FUSE_RELEASE, releaseFile],
  [fuse.FUSE_FLUSH, flush],
  [fuse.FUSE_FSYNC, fsync],
  [fuse.FUSE_FALLOCATE, fallocate],
  [fuse.FUSE_LSEEK, lseek],
  [fuse.FUSE_COPY_FILE_RANGE, copyFileRange],
]);
