/**
 * The file system device (virtio 1.3 §5.11): linux/fuse.h, the messages that it carries, and
 * linux/virtio_fs.h.
 */
import { struct } from './struct.ts';

export const FUSE_KERNEL_VERSION = 7;
export const FUSE_KERNEL_MINOR_VERSION = 38;
export const FUSE_ROOT_ID = 1;

export const FUSE_LOOKUP = 1;
export const FUSE_FORGET = 2;
export const FUSE_GETATTR = 3;
export const FUSE_SETATTR = 4;
export const FUSE_READLINK = 5;
export const FUSE_SYMLINK = 6;
export const FUSE_MKNOD = 8;
export const FUSE_MKDIR = 9;
export const FUSE_UNLINK = 10;
export const FUSE_RMDIR = 11;
export const FUSE_RENAME = 12;
export const FUSE_LINK = 13;
export const FUSE_OPEN = 14;
export const FUSE_READ = 15;
export const FUSE_WRITE = 16;
export const FUSE_STATFS = 17;
export const FUSE_RELEASE = 18;
export const FUSE_FSYNC = 20;
export const FUSE_SETXATTR = 21;
export const FUSE_GETXATTR = 22;
export const FUSE_LISTXATTR = 23;
export const FUSE_REMOVEXATTR = 24;
export const FUSE_FLUSH = 25;
export const FUSE_INIT = 26;
export const FUSE_OPENDIR = 27;
export const FUSE_READDIR = 28;
export const FUSE_RELEASEDIR = 29;
export const FUSE_FSYNCDIR = 30;
export const FUSE_CREATE = 35;
export const FUSE_INTERRUPT = 36;
export const FUSE_DESTROY = 38;
export const FUSE_BATCH_FORGET = 42;
export const FUSE_FALLOCATE = 43;
export const FUSE_READDIRPLUS = 44;
export const FUSE_RENAME2 = 45;
export const FUSE_LSEEK = 46;
export const FUSE_COPY_FILE_RANGE = 47;
export const FUSE_SYNCFS = 50;
export const FUSE_TMPFILE = 51;

/** Flags of INIT. */
export const FUSE_ASYNC_READ = 2 ** 0;
export const FUSE_ATOMIC_O_TRUNC = 2 ** 3;
export const FUSE_BIG_WRITES = 2 ** 5;
export const FUSE_DONT_MASK = 2 ** 6;
export const FUSE_AUTO_INVAL_DATA = 2 ** 12;
export const FUSE_DO_READDIRPLUS = 2 ** 13;
export const FUSE_READDIRPLUS_AUTO = 2 ** 14;
export const FUSE_ASYNC_DIO = 2 ** 15;
export const FUSE_PARALLEL_DIROPS = 2 ** 18;
export const FUSE_POSIX_ACL = 2 ** 20;
export const FUSE_MAX_PAGES = 2 ** 22;
export const FUSE_SUBMOUNTS = 2 ** 27;
export const FUSE_HANDLE_KILLPRIV_V2 = 2 ** 28;
export const FUSE_SETXATTR_EXT = 2 ** 29;

/** `valid` of SETATTR. */
export const FATTR_MODE = 1 << 0;
export const FATTR_UID = 1 << 1;
export const FATTR_GID = 1 << 2;
export const FATTR_SIZE = 1 << 3;
export const FATTR_ATIME = 1 << 4;
export const FATTR_MTIME = 1 << 5;
export const FATTR_FH = 1 << 6;
export const FATTR_ATIME_NOW = 1 << 7;
export const FATTR_MTIME_NOW = 1 << 8;
export const FATTR_KILL_SUIDGID = 1 << 11;

/** `flags` of a `struct fuse_attr`. */
export const FUSE_ATTR_SUBMOUNT = 1 << 0;

export const FOPEN_NOFLUSH = 1 << 5;
export const FUSE_OPEN_KILL_SUIDGID = 1 << 0;
export const FUSE_WRITE_CACHE = 1 << 0;
export const FUSE_WRITE_KILL_SUIDGID = 1 << 2;
export const FUSE_FSYNC_FDATASYNC = 1 << 0;

export const fuse_in_header = struct({
  len: 4,
  opcode: 4,
  unique: 8,
  nodeid: 8,
  uid: 4,
  gid: 4,
  pid: 4,
  total_extlen: 2,
  padding: 2,
});
export const fuse_out_header = struct({ len: 4, error: 4, unique: 8 });

export const fuse_attr = struct({
  ino: 8,
  size_: 8,
  blocks: 8,
  atime: 8,
  mtime: 8,
  ctime: 8,
  atimensec: 4,
  mtimensec: 4,
  ctimensec: 4,
  mode: 4,
  nlink: 4,
  uid: 4,
  gid: 4,
  rdev: 4,
  blksize: 4,
  flags: 4,
});

/** `struct fuse_attr` follows in both. */
export const fuse_entry_out = struct({
  nodeid: 8,
  generation: 8,
  entry_valid: 8,
  attr_valid: 8,
  entry_valid_nsec: 4,
  attr_valid_nsec: 4,
  attr: [8, 11],
});
export const fuse_attr_out = struct({ attr_valid: 8, attr_valid_nsec: 4, dummy: 4, attr: [8, 11] });

export const fuse_init_in = struct({ major: 4, minor: 4, max_readahead: 4, flags: 4 });
export const fuse_init_out = struct({
  major: 4,
  minor: 4,
  max_readahead: 4,
  flags: 4,
  max_background: 2,
  congestion_threshold: 2,
  max_write: 4,
  time_gran: 4,
  max_pages: 2,
  map_alignment: 2,
  flags2: 4,
  unused: [4, 7],
});

export const fuse_forget_in = struct({ nlookup: 8 });
export const fuse_forget_one = struct({ nodeid: 8, nlookup: 8 });
export const fuse_batch_forget_in = struct({ count: 4, dummy: 4 });
export const fuse_getattr_in = struct({ getattr_flags: 4, dummy: 4, fh: 8 });
export const fuse_setattr_in = struct({
  valid: 4,
  padding: 4,
  fh: 8,
  size_: 8,
  lock_owner: 8,
  atime: 8,
  mtime: 8,
  ctime: 8,
  atimensec: 4,
  mtimensec: 4,
  ctimensec: 4,
  mode: 4,
  unused4: 4,
  uid: 4,
  gid: 4,
  unused5: 4,
});
export const fuse_mknod_in = struct({ mode: 4, rdev: 4, umask: 4, padding: 4 });
export const fuse_mkdir_in = struct({ mode: 4, umask: 4 });
export const fuse_rename_in = struct({ newdir: 8 });
export const fuse_rename2_in = struct({ newdir: 8, flags: 4, padding: 4 });
export const fuse_link_in = struct({ oldnodeid: 8 });
export const fuse_open_in = struct({ flags: 4, open_flags: 4 });
export const fuse_open_out = struct({ fh: 8, open_flags: 4, padding: 4 });
export const fuse_create_in = struct({ flags: 4, mode: 4, umask: 4, open_flags: 4 });
export const fuse_read_in = struct({
  fh: 8,
  offset: 8,
  size_: 4,
  read_flags: 4,
  lock_owner: 8,
  flags: 4,
  padding: 4,
});
export const fuse_write_in = struct({
  fh: 8,
  offset: 8,
  size_: 4,
  write_flags: 4,
  lock_owner: 8,
  flags: 4,
  padding: 4,
});
export const fuse_write_out = struct({ size_: 4, padding: 4 });
export const fuse_release_in = struct({ fh: 8, flags: 4, release_flags: 4, lock_owner: 8 });
export const fuse_flush_in = struct({ fh: 8, unused: 4, padding: 4, lock_owner: 8 });
export const fuse_fsync_in = struct({ fh: 8, fsync_flags: 4, padding: 4 });
export const fuse_fallocate_in = struct({ fh: 8, offset: 8, length: 8, mode: 4, padding: 4 });
export const fuse_lseek_in = struct({ fh: 8, offset: 8, whence: 4, padding: 4 });
export const fuse_lseek_out = struct({ offset: 8 });
export const fuse_copy_file_range_in = struct({
  fh_in: 8,
  off_in: 8,
  nodeid_out: 8,
  fh_out: 8,
  off_out: 8,
  len: 8,
  flags: 8,
});
export const fuse_syncfs_in = struct({ padding: 8 });
export const fuse_setxattr_in = struct({ size_: 4, flags: 4, setxattr_flags: 4, padding: 4 });
/** As long as it is without FUSE_SETXATTR_EXT. */
export const FUSE_COMPAT_SETXATTR_IN_SIZE = 8;
export const FUSE_SETXATTR_ACL_KILL_SGID = 1 << 0;
export const fuse_getxattr_in = struct({ size_: 4, padding: 4 });
export const fuse_getxattr_out = struct({ size_: 4, padding: 4 });
export const fuse_kstatfs = struct({
  blocks: 8,
  bfree: 8,
  bavail: 8,
  files: 8,
  ffree: 8,
  bsize: 4,
  namelen: 4,
  frsize: 4,
  padding: 4,
  spare: [4, 6],
});
/** The name follows, and room up to a multiple of 8. */
export const fuse_dirent = struct({ ino: 8, off: 8, namelen: 4, type: 4 });

export const VIRTIO_ID_FS = 26;
/** Without `notify_buf_size`, which goes with VIRTIO_FS_F_NOTIFICATION. */
export const virtio_fs_config = struct({ tag: [1, 36], num_request_queues: 4 }, true);
