/** Names in folders: looked up, made, removed, moved. */
import { EEXIST, EINVAL, ENOENT, ENOTDIR, EPERM, EXDEV } from '../../../../abi/errno.ts';
import * as abi from '../../../../abi/files.ts';
import * as fuse from '../../../../abi/fuse.ts';
import * as files from '../../../../host/file-system.ts';
import * as sys from '../../../../host/syscall.ts';
import { writeEntryOut } from '../attributes.ts';
import { type FileSystem, UNKNOWN } from '../file-system.ts';
import { BODY, type FuseRequest, NODEID } from '../fuse-request.ts';
import type { Inode } from '../inode-table.ts';
import { openHandle, openRegular, permittedFlags } from './files.ts';
import { type Operation, onInode } from './operation.ts';

const ENTRY = fuse.fuse_entry_out.size;
const MODE_BITS = 0o7777;
const RENAME_FLAGS = abi.RENAME_NOREPLACE | abi.RENAME_EXCHANGE | abi.RENAME_WHITEOUT;
/** Attempts at a file that others create and remove. */
const CREATE_TRIES = 4;

/** Answers with the file that a name refers to. */
function entry(fs: FileSystem, request: FuseRequest, folder: Inode, name: number): number {
  const inode = fs.lookUp(folder, name);
  if (typeof inode === 'number') return inode;
  return writeEntryOut(request.output.view, 0, inode, fs.stat);
}

/** An operation on a name in the folder that the request is about; a mount point not crossed has none. */
function onName(
  about: Omit<Operation, 'run'>,
  run: (fs: FileSystem, request: FuseRequest, folder: Inode, name: number) => number,
): Operation {
  return {
    ...about,
    run(fs: FileSystem, request: FuseRequest): number {
      const folder = fs.inodeAt(request, NODEID);
      if (folder === undefined) return UNKNOWN;
      const refused = request.name(BODY + about.takes);
      if (refused < 0) return refused;
      if (folder.isUncrossed) {
        if (folder.kind !== abi.S_IFDIR) return -ENOTDIR;
        return about.onUncrossed === true ? -ENOENT : -EXDEV;
      }
      return run(fs, request, folder, request.nameAddress);
    },
  };
}

/**
 * Creates a file as the caller.
 * @param umask the caller's: the host ignores it where the folder has a default ACL (FUSE_DONT_MASK)
 */
function asCaller(fs: FileSystem, request: FuseRequest, umask: number, make: () => number): number {
  const entered = fs.credentials.enter(request.uid, request.gid, umask & 0o777);
  if (entered < 0) return entered;
  const made = make();
  fs.credentials.leave();
  return made;
}

const lookup = onName({ takes: 0, gives: ENTRY, onUncrossed: true }, entry);

const mkdir = onName(
  { takes: fuse.fuse_mkdir_in.size, gives: ENTRY, writes: true },
  (fs, request, folder, name) => {
    const mode = request.u32(BODY) & MODE_BITS;
    const umask = request.u32(BODY + fuse.fuse_mkdir_in.umask.offset);
    const made = asCaller(fs, request, umask, () => files.mkdirat(folder.fd, name, mode));
    return made < 0 ? made : entry(fs, request, folder, name);
  },
);

/** Types that any user may create. */
const PLAIN = [abi.S_IFREG, abi.S_IFIFO, abi.S_IFSOCK];

/** Devices are the host's, and only made if that is enabled. */
const mknod = onName(
  { takes: fuse.fuse_mknod_in.size, gives: ENTRY, writes: true },
  (fs, request, folder, name) => {
    const mode = request.u32(BODY) & (abi.S_IFMT | MODE_BITS);
    const kind = mode & abi.S_IFMT;
    const device = request.u32(BODY + fuse.fuse_mknod_in.rdev.offset);
    // Overlayfs marks removed files by a character device of number 0, which is no device.
    const isWhiteout = kind === abi.S_IFCHR && device === 0;
    const isDevice = kind === abi.S_IFCHR || kind === abi.S_IFBLK;
    const permitted = isDevice ? fs.makesDevices || isWhiteout : PLAIN.includes(kind);
    if (!permitted) return -EPERM;
    const umask = request.u32(BODY + fuse.fuse_mknod_in.umask.offset);
    const number = isDevice ? device : 0;
    const made = asCaller(fs, request, umask, () => files.mknodat(folder.fd, name, mode, number));
    return made < 0 ? made : entry(fs, request, folder, name);
  },
);

const symlink = onName({ takes: 0, gives: ENTRY, writes: true }, (fs, request, folder, name) => {
  const from = request.rest;
  const refused = request.text(BODY);
  if (refused < 0) return refused;
  if (request.rest - from > abi.PATH_MAX) return -EINVAL;
  const target = request.nameAddress;
  const made = asCaller(fs, request, 0, () => files.symlinkat(target, folder.fd, name));
  return made < 0 ? made : entry(fs, request, folder, name);
});

const link = onName(
  { takes: fuse.fuse_link_in.size, gives: ENTRY, writes: true },
  (fs, request, folder, name) => {
    const inode = fs.inodeAt(request, BODY);
    if (inode === undefined) return UNKNOWN;
    if (inode.isUncrossed) return -EXDEV;
    const path = fs.pathOf(inode.fd);
    const made = files.linkat(abi.AT_FDCWD, path, folder.fd, name, abi.AT_SYMLINK_FOLLOW);
    return made < 0 ? made : entry(fs, request, folder, name);
  },
);

const unlink = onName({ takes: 0, gives: 0, writes: true }, (_fs, _request, folder, name) =>
  files.unlinkat(folder.fd, name, 0),
);

const rmdir = onName({ takes: 0, gives: 0, writes: true }, (_fs, _request, folder, name) =>
  files.unlinkat(folder.fd, name, abi.AT_REMOVEDIR),
);

function rename(
  fs: FileSystem,
  request: FuseRequest,
  folder: Inode,
  name: number,
  flags: number,
): number {
  const target = fs.inodeAt(request, BODY);
  if (target === undefined) return UNKNOWN;
  if (target.isUncrossed) return -EXDEV;
  const refused = request.name(BODY);
  if (refused < 0) return refused;
  return files.renameat2(folder.fd, name, target.fd, request.nameAddress, flags);
}

const renamePlain = onName(
  { takes: fuse.fuse_rename_in.size, gives: 0, writes: true },
  (fs, request, folder, name) => rename(fs, request, folder, name, 0),
);

const rename2 = onName(
  { takes: fuse.fuse_rename2_in.size, gives: 0, writes: true },
  (fs, request, folder, name) => {
    const flags = request.u32(BODY + fuse.fuse_rename2_in.flags.offset);
    if ((flags & ~RENAME_FLAGS) !== 0) return -EINVAL;
    return rename(fs, request, folder, name, flags);
  },
);

/** Creates a file and opens it, or opens an existing one. */
const create = onName(
  {
    takes: fuse.fuse_create_in.size,
    gives: ENTRY + fuse.fuse_open_out.size,
    writes: true,
  },
  (fs, request, folder, name) => {
    const asked = request.u32(BODY + fuse.fuse_create_in.flags.offset);
    const mode = request.u32(BODY + fuse.fuse_create_in.mode.offset) & MODE_BITS;
    const flags = permittedFlags(asked);
    if (flags < 0) return flags;
    const creating =
      (flags & ~abi.O_APPEND) | abi.O_CREAT | abi.O_EXCL | abi.O_NOFOLLOW | abi.O_CLOEXEC;
    const umask = request.u32(BODY + fuse.fuse_create_in.umask.offset);
    for (let tries = 0; ; tries++) {
      // An existing file may be one that must not be opened: see `openRegular`.
      const fd = asCaller(fs, request, umask, () => files.openat(folder.fd, name, creating, mode));
      if (fd >= 0) return created(fs, request, folder, fd, flags);
      if (fd !== -EEXIST || (asked & abi.O_EXCL) !== 0 || tries === CREATE_TRIES) return fd;
      const inode = fs.lookUp(folder, name);
      if (typeof inode !== 'number') return opened(fs, request, inode, flags);
      if (inode !== -ENOENT) return inode;
    }
  },
);

/** Creates an unnamed file, which LINK may name later unless O_EXCL is set. */
const tmpfile = onInode(
  {
    takes: fuse.fuse_create_in.size,
    gives: ENTRY + fuse.fuse_open_out.size,
    writes: true,
  },
  (fs, request, folder) => {
    const { flags: asked, mode, umask } = fuse.fuse_create_in;
    const flags = permittedFlags(request.u32(BODY + asked.offset));
    if (flags < 0) return flags;
    const exclusive = request.u32(BODY + asked.offset) & abi.O_EXCL;
    const how = (flags & ~abi.O_APPEND) | exclusive | abi.O_TMPFILE | abi.O_CLOEXEC;
    const bits = request.u32(BODY + mode.offset) & MODE_BITS;
    const masked = request.u32(BODY + umask.offset);
    const fd = asCaller(fs, request, masked, () => files.openat(folder.fd, fs.dotName, how, bits));
    return fd < 0 ? fd : created(fs, request, folder, fd, flags);
  },
);

/** @param fd of the new file, whatever its name refers to by now */
function created(
  fs: FileSystem,
  request: FuseRequest,
  folder: Inode,
  fd: number,
  flags: number,
): number {
  const path = fs.reopen(fd, abi.O_PATH);
  const inode = path < 0 ? path : fs.hold(path, folder);
  if (typeof inode === 'number') {
    sys.close(fd);
    return inode;
  }
  return answerCreate(fs, request, inode, fd, flags);
}

function opened(fs: FileSystem, request: FuseRequest, inode: Inode, flags: number): number {
  const opening = request.u32(BODY + fuse.fuse_create_in.open_flags.offset);
  const fd = openRegular(fs, inode, flags, opening);
  // That may have truncated it.
  const looked = fd < 0 ? fd : fs.look(fd);
  if (looked >= 0) return answerCreate(fs, request, inode, fd, flags);
  if (fd >= 0) sys.close(fd);
  fs.inodes.forget(inode, 1);
  return looked;
}

function answerCreate(
  fs: FileSystem,
  request: FuseRequest,
  inode: Inode,
  fd: number,
  flags: number,
): number {
  const handle = openHandle(fs, request, ENTRY, fd, flags);
  if (handle < 0) {
    fs.inodes.forget(inode, 1);
    return handle;
  }
  return writeEntryOut(request.output.view, 0, inode, fs.stat) + handle;
}

export const nameOperations: ReadonlyMap<number, Operation> = new Map([
  [fuse.FUSE_LOOKUP, lookup],
  [fuse.FUSE_MKDIR, mkdir],
  [fuse.FUSE_MKNOD, mknod],
  [fuse.FUSE_SYMLINK, symlink],
  [fuse.FUSE_LINK, link],
  [fuse.FUSE_UNLINK, unlink],
  [fuse.FUSE_RMDIR, rmdir],
  [fuse.FUSE_RENAME, renamePlain],
  [fuse.FUSE_RENAME2, rename2],
  [fuse.FUSE_CREATE, create],
  [fuse.FUSE_TMPFILE, tmpfile],
]);
