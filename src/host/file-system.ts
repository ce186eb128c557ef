/**
 * System calls on files, by a descriptor of their folder and one name. Names are addresses of
 * NUL-terminated bytes: they come from guests, who may choose any. As in `syscall.ts` each function
 * returns the call's result or the negative errno.
 */
import { open_how, RESOLVE_NO_XDEV } from '../abi/files.ts';
import { NativeMemory } from './native-memory.ts';
import { bind, result, syscall } from './syscall.ts';

const openatNative = bind('int openat(int dir, int64_t name, int flags, int mode)');
const statxNative = bind('int statx(int dir, int64_t name, int flags, int mask, int64_t to)');
const mkdiratNative = bind('int mkdirat(int dir, int64_t name, int mode)');
const mknodatNative = bind('int mknodat(int dir, int64_t name, int mode, int64_t device)');
const unlinkatNative = bind('int unlinkat(int dir, int64_t name, int flags)');
const renameat2Native = bind(
  'int renameat2(int dir, int64_t name, int newDir, int64_t newName, int flags)',
);
const linkatNative = bind(
  'int linkat(int dir, int64_t name, int newDir, int64_t newName, int flags)',
);
const symlinkatNative = bind('int symlinkat(int64_t target, int dir, int64_t name)');
const readlinkatNative = bind(
  'int64_t readlinkat(int dir, int64_t name, int64_t to, int64_t length)',
);
const getdentsNative = bind('int64_t getdents64(int fd, int64_t to, int64_t length)');
const fchmodatNative = bind('int fchmodat(int dir, int64_t name, int mode, int flags)');
const fchmodNative = bind('int fchmod(int fd, int mode)');
const fchownatNative = bind(
  'int fchownat(int dir, int64_t name, unsigned int uid, unsigned int gid, int flags)',
);
const utimensatNative = bind('int utimensat(int dir, int64_t name, int64_t times, int flags)');
const fsyncNative = bind('int fsync(int fd)');
const syncfsNative = bind('int syncfs(int fd)');
const fstatfsNative = bind('int fstatfs(int fd, int64_t to)');
const lseekNative = bind('int64_t lseek(int fd, int64_t offset, int whence)');
const copyFileRangeNative = bind(
  'int64_t copy_file_range(int from, int64_t offset, int to, int64_t toOffset, int64_t length, unsigned int flags)',
);
const getxattrNative = bind(
  'int64_t getxattr(int64_t path, int64_t name, int64_t to, int64_t length)',
);
const setxattrNative = bind(
  'int setxattr(int64_t path, int64_t name, int64_t value, int64_t length, int flags)',
);
const listxattrNative = bind('int64_t listxattr(int64_t path, int64_t to, int64_t length)');
const removexattrNative = bind('int removexattr(int64_t path, int64_t name)');
const fgetxattrNative = bind('int64_t fgetxattr(int fd, int64_t name, int64_t to, int64_t length)');
const dupNative = bind('int dup(int fd)');
const getrlimitNative = bind('int getrlimit(int resource, int64_t to)');

export const openat = (dir: number, name: number, flags: number, mode = 0): number =>
  result(openatNative(dir, name, flags, mode));
const SYS_openat2 = 437;
const beneathMount = new NativeMemory(open_how.size);
beneathMount.view.setUint32(open_how.resolve.offset, RESOLVE_NO_XDEV, true);

/** openat2(2) with RESOLVE_NO_XDEV: -EXDEV for what is mounted there. Linux before 5.6: -ENOSYS. */
export function openatInMount(dir: number, name: number, flags: number): number {
  beneathMount.view.setUint32(open_how.flags.offset, flags, true);
  return syscall(SYS_openat2, dir, name, beneathMount.address, open_how.size);
}

/** @param to address of a `struct statx` */
export const statx = (dir: number, name: number, flags: number, mask: number, to: number): number =>
  result(statxNative(dir, name, flags, mask, to));
export const mkdirat = (dir: number, name: number, mode: number): number =>
  result(mkdiratNative(dir, name, mode));
export const mknodat = (dir: number, name: number, mode: number, device: number): number =>
  result(mknodatNative(dir, name, mode, device));
export const unlinkat = (dir: number, name: number, flags: number): number =>
  result(unlinkatNative(dir, name, flags));
export const renameat2 = (
  dir: number,
  name: number,
  newDir: number,
  newName: number,
  flags: number,
): number => result(renameat2Native(dir, name, newDir, newName, flags));
export const linkat = (
  dir: number,
  name: number,
  newDir: number,
  newName: number,
  flags: number,
): number => result(linkatNative(dir, name, newDir, newName, flags));
export const symlinkat = (target: number, dir: number, name: number): number =>
  result(symlinkatNative(target, dir, name));
export const readlinkat = (dir: number, name: number, to: number, length: number): number =>
  result(readlinkatNative(dir, name, to, length));
/** getdents64(2). */
export const getdents = (fd: number, to: number, length: number): number =>
  result(getdentsNative(fd, to, length));
export const fchmodat = (dir: number, name: number, mode: number): number =>
  result(fchmodatNative(dir, name, mode, 0));
export const fchmod = (fd: number, mode: number): number => result(fchmodNative(fd, mode));
export const fchownat = (
  dir: number,
  name: number,
  uid: number,
  gid: number,
  flags: number,
): number => result(fchownatNative(dir, name, uid, gid, flags));
/** @param times address of two `struct timespec` */
export const utimensat = (dir: number, name: number, times: number, flags: number): number =>
  result(utimensatNative(dir, name, times, flags));
export const fsync = (fd: number): number => result(fsyncNative(fd));
export const syncfs = (fd: number): number => result(syncfsNative(fd));
/** @param to address of a `struct statfs` */
export const fstatfs = (fd: number, to: number): number => result(fstatfsNative(fd, to));
/** @param offset a folder's may be any 63 bits: what is returned of them is rounded */
export const lseek = (fd: number, offset: number | bigint, whence: number): number =>
  result(Number(lseekNative(fd, offset, whence)));
/** @param offset address of the 64-bit offset, which moves on */
export const copyFileRange = (
  from: number,
  offset: number,
  to: number,
  toOffset: number,
  length: number,
): number => result(copyFileRangeNative(from, offset, to, toOffset, length, 0));
export const getxattr = (path: number, name: number, to: number, length: number): number =>
  result(getxattrNative(path, name, to, length));
export const setxattr = (
  path: number,
  name: number,
  value: number,
  length: number,
  flags: number,
): number => result(setxattrNative(path, name, value, length, flags));
export const listxattr = (path: number, to: number, length: number): number =>
  result(listxattrNative(path, to, length));
export const removexattr = (path: number, name: number): number =>
  result(removexattrNative(path, name));
export const fgetxattr = (fd: number, name: number, to: number, length: number): number =>
  result(fgetxattrNative(fd, name, to, length));
export const dup = (fd: number): number => result(dupNative(fd));

const RLIMIT_NOFILE = 7;
const RLIMIT_MEMLOCK = 8;
const RLIM_INFINITY = 2 ** 64;

/** How many descriptors the process may have open. */
export function descriptorLimit(): number {
  return Math.min(softLimit(RLIMIT_NOFILE) ?? 1024, 2 ** 30);
}

/** How many bytes of memory the process may lock; Infinity without a limit. */
export function lockedMemoryLimit(): number {
  const limit = softLimit(RLIMIT_MEMLOCK) ?? 0;
  return limit >= RLIM_INFINITY ? Infinity : limit;
}

function softLimit(resource: number): number | undefined {
  const limits = new NativeMemory(16);
  if (getrlimitNative(resource, limits.address) < 0) return undefined;
  return Number(limits.view.getBigUint64(0, true));
}

const PROC_FD = Buffer.from('/proc/self/fd/');

/** A path in memory that stands for whatever a descriptor is open on, also where that has no name. */
export class DescriptorPath {
  readonly #memory = new NativeMemory(PROC_FD.length + 16);

  constructor() {
    this.#memory.bytes.set(PROC_FD);
  }

  /** Address of the path of a descriptor; good until the next call. */
  of(fd: number): number {
    const { bytes, address } = this.#memory;
    let end = PROC_FD.length + 1;
    for (let rest = fd; rest >= 10; rest = Math.trunc(rest / 10)) end++;
    bytes[end] = 0;
    let rest = fd;
    for (let at = end - 1; at >= PROC_FD.length; at--) {
      bytes[at] = 0x30 + (rest % 10);
      rest = Math.trunc(rest / 10);
    }
    return address;
  }
}
