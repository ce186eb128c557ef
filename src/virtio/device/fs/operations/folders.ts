/** Open folders, and what they hold. */
import { EBADF, EINVAL, ENOTDIR, EPERM } from '../../../../abi/errno.ts';
import * as abi from '../../../../abi/files.ts';
import * as fuse from '../../../../abi/fuse.ts';
import * as files from '../../../../host/file-system.ts';
import { NativeMemory } from '../../../../host/native-memory.ts';
import { writeEntryOut } from '../attributes.ts';
import { type FileSystem, UNKNOWN } from '../file-system.ts';
import { BODY, type FuseRequest, NODEID, OUTPUT_SIZE } from '../fuse-request.ts';
import { FileHandle } from '../handle-table.ts';
import type { Inode } from '../inode-table.ts';
import { writeOpenOut } from './files.ts';
import { type Operation, onFolder, onInode, release } from './operation.ts';

const ENTRY = fuse.fuse_entry_out.size;
const DIRENT = fuse.fuse_dirent.size;
const HOST_DIRENT = abi.linux_dirent64.size;
/** The minimum room for one entry of the host's. */
const SMALLEST_BATCH = HOST_DIRENT + abi.NAME_MAX + 16;
const DOT = 0x2e;

const batch = new NativeMemory(OUTPUT_SIZE);

/** For replies that are always empty. No handle has this number. */
const EMPTY = new FileHandle(0, 0, -1, -1, true);

const opendir = onInode(
  {
    takes: fuse.fuse_open_in.size,
    gives: fuse.fuse_open_out.size,
    onUncrossed: true,
  },
  (fs, request, inode) => {
    if (inode.kind !== abi.S_IFDIR) return -ENOTDIR;
    if (inode.isUncrossed) return writeOpenOut(request, 0, EMPTY, 0);
    const flags = abi.O_RDONLY | abi.O_DIRECTORY | abi.O_CLOEXEC;
    const noatime = request.u32(BODY) & abi.O_NOATIME;
    let fd = files.openat(inode.fd, fs.dotName, flags | noatime);
    if (fd === -EPERM && noatime !== 0) fd = files.openat(inode.fd, fs.dotName, flags);
    if (fd < 0) return fd;
    const handle = fs.handles.open(fd, true);
    return typeof handle === 'number' ? handle : writeOpenOut(request, 0, handle, 0);
  },
);

/** Makes the next getdents64 continue at an offset. Offsets are the host's, and may be any 64 bits. */
function seek(handle: FileHandle, low: number, high: number): number {
  if (handle.offsetLow === low && handle.offsetHigh === high) return 0;
  const offset = BigInt.asIntN(64, (BigInt(high) << 32n) | BigInt(low));
  return Math.min(files.lseek(handle.fd, offset, abi.SEEK_SET), 0);
}

/** @param plus with the attributes of each entry, which the guest then holds */
function readEntries(fs: FileSystem, request: FuseRequest, plus: boolean): number {
  const folder = fs.inodeAt(request, NODEID);
  const handle = fs.folderAt(request, BODY);
  if (folder === undefined) return UNKNOWN;
  if (folder.isUncrossed) return folder.kind === abi.S_IFDIR ? 0 : -ENOTDIR;
  if (handle === undefined) return -EBADF;
  const at = BODY + fuse.fuse_read_in.offset.offset;
  const size = request.u32(BODY + fuse.fuse_read_in.size_.offset);
  const room = Math.min(size, request.room, OUTPUT_SIZE);
  const found = seek(handle, request.u32(at), request.u32(at + 4));
  if (found < 0) return found;
  handle.offsetLow = -1;
  // Entries of READDIRPLUS are several times as long; those that do not fit are read again.
  const length = Math.max(plus ? room / 4 : room, SMALLEST_BATCH);
  const got = files.getdents(handle.fd, batch.address, length & ~7);
  if (got < 0) return got;
  let from = 0;
  let done = 0;
  while (from < got) {
    const written = writeEntry(fs, request, folder, from, done, room, plus);
    if (written < 0) break;
    done += written;
    handle.offsetHigh = batch.view.getUint32(from + abi.linux_dirent64.d_off.offset + 4, true);
    const low = batch.view.getUint32(from + abi.linux_dirent64.d_off.offset, true);
    from += batch.view.getUint16(from + abi.linux_dirent64.d_reclen.offset, true);
    // No seek is needed only if the host's position is the same.
    handle.offsetLow = from < got ? -1 : low;
  }
  return done === 0 && got > 0 ? -EINVAL : done;
}

/** Writes an entry of the batch into the answer. Returns its bytes, or -1 when it does not fit. */
function writeEntry(
  fs: FileSystem,
  request: FuseRequest,
  folder: Inode,
  from: number,
  to: number,
  room: number,
  plus: boolean,
): number {
  const name = from + HOST_DIRENT;
  const length = batch.bytes.indexOf(0, name) - name;
  const head = plus ? ENTRY : 0;
  const whole = head + ((DIRENT + length + 7) & ~7);
  if (to + whole > room) return -1;
  const { bytes, view } = request.output;
  bytes.fill(0, to, to + whole);
  if (plus && !isDots(name, length)) {
    // An entry that is gone, or that has no descriptor left for it, has no node ID: the guest looks it up.
    const inode = fs.lookUp(folder, batch.address + name);
    if (typeof inode !== 'number') writeEntryOut(view, to, inode, fs.stat);
  }
  const dirent = to + head;
  const { namelen, type } = fuse.fuse_dirent;
  // Inode number and offset come first in both structs.
  bytes.set(batch.bytes.subarray(from, from + namelen.offset), dirent);
  view.setUint32(dirent + namelen.offset, length, true);
  view.setUint32(
    dirent + type.offset,
    batch.view.getUint8(from + abi.linux_dirent64.d_type.offset),
    true,
  );
  bytes.set(batch.bytes.subarray(name, name + length), dirent + DIRENT);
  return whole;
}

function isDots(name: number, length: number): boolean {
  const { bytes } = batch;
  return bytes[name] === DOT && (length === 1 || (length === 2 && bytes[name + 1] === DOT));
}

const readdir: Operation = {
  takes: fuse.fuse_read_in.size,
  gives: 0,
  run: (fs: FileSystem, request: FuseRequest) => readEntries(fs, request, false),
};

const readdirplus: Operation = {
  takes: fuse.fuse_read_in.size,
  gives: 0,
  run: (fs: FileSystem, request: FuseRequest) => readEntries(fs, request, true),
};

const releasedir = onFolder({ takes: fuse.fuse_release_in.size, gives: 0 }, release);

const fsyncdir = onFolder({ takes: fuse.fuse_fsync_in.size, gives: 0 }, (_fs, _request, handle) =>
  files.fsync(handle.fd),
);

export const folderOperations: ReadonlyMap<number, Operation> = new Map([
  [fuse.FUSE_OPENDIR, opendir],
  [fuse.FUSE_READDIR, readdir],
  [fuse.FUSE_READDIRPLUS, readdirplus],
  [fuse.FUSE_RELEASEDIR, releasedir],
  [fuse.FUSE_FSYNCDIR, fsyncdir],
]);
