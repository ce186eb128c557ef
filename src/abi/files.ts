/** Structs, flags and modes of Linux's file system calls, x86-64. */
import { struct } from './struct.ts';

/** linux/stat.h; nested timestamps flattened. */
export const statx = struct({
  stx_mask: 4,
  stx_blksize: 4,
  stx_attributes: 8,
  stx_nlink: 4,
  stx_uid: 4,
  stx_gid: 4,
  stx_mode: 2,
  stx_ino: 8,
  stx_size: 8,
  stx_blocks: 8,
  stx_attributes_mask: 8,
  atime_sec: 8,
  atime_nsec: 4,
  btime_sec: 8,
  btime_nsec: 4,
  ctime_sec: 8,
  ctime_nsec: 4,
  mtime_sec: 8,
  mtime_nsec: 4,
  mtime_reserved: 4,
  stx_rdev_major: 4,
  stx_rdev_minor: 4,
  stx_dev_major: 4,
  stx_dev_minor: 4,
  stx_mnt_id: 8,
});
/** The whole struct, with what later kernels put behind. */
export const STATX_LENGTH = 256;
export const STATX_TYPE = 1;
export const STATX_BASIC_STATS = 0x7ff;
/** Linux 5.8. */
export const STATX_MNT_ID = 0x1000;

/** asm/statfs.h: `struct statfs`. */
export const statfs = struct({
  f_type: 8,
  f_bsize: 8,
  f_blocks: 8,
  f_bfree: 8,
  f_bavail: 8,
  f_files: 8,
  f_ffree: 8,
  f_fsid: 8,
  f_namelen: 8,
  f_frsize: 8,
  f_flags: 8,
  f_spare: [8, 4],
});

/** What getdents64(2) returns one after the other; the name follows, with a NUL. */
export const linux_dirent64 = struct({ d_ino: 8, d_off: 8, d_reclen: 2, d_type: 1 }, true);

export const S_IFMT = 0o170000;
export const S_IFIFO = 0o010000;
export const S_IFCHR = 0o020000;
export const S_IFDIR = 0o040000;
export const S_IFBLK = 0o060000;
export const S_IFREG = 0o100000;
export const S_IFLNK = 0o120000;
export const S_IFSOCK = 0o140000;
export const S_ISUID = 0o4000;
export const S_ISGID = 0o2000;
export const S_ISVTX = 0o1000;
export const S_IXGRP = 0o010;

export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_ACCMODE = 3;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_TRUNC = 0o1000;
export const O_APPEND = 0o2000;
export const O_NONBLOCK = 0o4000;
export const O_DSYNC = 0o10000;
export const O_DIRECTORY = 0o200000;
export const O_NOFOLLOW = 0o400000;
export const O_NOATIME = 0o1000000;
export const O_CLOEXEC = 0o2000000;
/** O_SYNC, O_DSYNC included. */
export const O_SYNC = 0o4010000;
export const O_PATH = 0o10000000;
export const O_TMPFILE = 0o20200000;

/** Of pwritev2(2): at the end of the file, whatever the offset. */
export const RWF_APPEND = 16;

/** linux/openat2.h. */
export const open_how = struct({ flags: 8, mode: 8, resolve: 8 });
export const RESOLVE_NO_XDEV = 1;

export const AT_FDCWD = -100;
export const AT_SYMLINK_NOFOLLOW = 0x100;
export const AT_REMOVEDIR = 0x200;
export const AT_SYMLINK_FOLLOW = 0x400;
export const AT_NO_AUTOMOUNT = 0x800;
export const AT_EMPTY_PATH = 0x1000;
export const AT_STATX_DONT_SYNC = 0x4000;

export const RENAME_NOREPLACE = 1;
export const RENAME_EXCHANGE = 2;
export const RENAME_WHITEOUT = 4;

export const FALLOC_FL_KEEP_SIZE = 1;
export const FALLOC_FL_PUNCH_HOLE = 2;
export const FALLOC_FL_ZERO_RANGE = 16;

export const SEEK_SET = 0;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

/** Special nanosecond values of utimensat(2). */
export const UTIME_NOW = 0x3fffffff;
export const UTIME_OMIT = 0x3ffffffe;

export const NAME_MAX = 255;
export const PATH_MAX = 4096;
