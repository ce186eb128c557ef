/**
 * The libc functions that nodevmm calls, typed, through koffi. Pointers are plain numbers (user
 * space addresses stay below 2^47). Each function returns the call's result, or the negative
 * errno: no exception, so that hot loops may use them; cold code wraps them in `check`.
 */
import { constants as os } from 'node:os';
import { HostError } from './errors.ts';
import { koffi } from './koffi.ts';

const libc = koffi.load('libc.so.6');

/** A C function as koffi calls it. */
export type Native = (...args: (number | bigint | string | null)[]) => number;

/** A function of libc, by its C prototype. Other modules of this folder bind what only they need. */
export function bind(signature: string): Native {
  const native = libc.func(signature) as unknown as Native;
  return native;
}

const nativeErrno = koffi.errno as () => number;

const ioctlNative = bind('int ioctl(int fd, uint64_t request, int64_t argument)');
const openNative = bind('int open(const char *path, int flags, int mode)');
const closeNative = bind('int close(int fd)');
const readNative = bind('int64_t read(int fd, int64_t address, int64_t length)');
const writeNative = bind('int64_t write(int fd, int64_t address, int64_t length)');
const readvNative = bind('int64_t readv(int fd, int64_t iovec, int count)');
const writevNative = bind('int64_t writev(int fd, int64_t iovec, int count)');
const preadvNative = bind('int64_t preadv(int fd, int64_t iovec, int count, int64_t offset)');
const pwritevNative = bind('int64_t pwritev(int fd, int64_t iovec, int count, int64_t offset)');
const preadv2Native = bind(
  'int64_t preadv2(int fd, int64_t iovec, int count, int64_t offset, int flags)',
);
const pwritev2Native = bind(
  'int64_t pwritev2(int fd, int64_t iovec, int count, int64_t offset, int flags)',
);
const fdatasyncNative = bind('int fdatasync(int fd)');
const fallocateNative = bind('int fallocate(int fd, int mode, int64_t offset, int64_t length)');
const ftruncateNative = bind('int ftruncate(int fd, int64_t length)');
const mmapNative = bind(
  'int64_t mmap(int64_t address, int64_t length, int protection, int flags, int fd, int64_t offset)',
);
const munmapNative = bind('int munmap(int64_t address, int64_t length)');
const madviseNative = bind('int madvise(int64_t address, int64_t length, int advice)');
const memfdCreateNative = bind('int memfd_create(const char *name, unsigned int flags)');
const eventfdNative = bind('int eventfd(unsigned int initial, int flags)');
const epollCreateNative = bind('int epoll_create1(int flags)');
const epollCtlNative = bind('int epoll_ctl(int epfd, int op, int fd, int64_t event)');
const epollWaitNative = bind('int epoll_wait(int epfd, int64_t events, int maximum, int timeout)');
const pollNative = bind('int poll(int64_t fds, uint64_t count, int timeout)');
const flockNative = bind('int flock(int fd, int operation)');
const socketNative = bind('int socket(int domain, int type, int protocol)');
const bindNative = bind('int bind(int fd, int64_t address, unsigned int length)');
const listenNative = bind('int listen(int fd, int backlog)');
const connectNative = bind('int connect(int fd, int64_t address, unsigned int length)');
const acceptNative = bind('int accept4(int fd, int64_t address, int64_t addressLength, int flags)');
const getsocknameNative = bind('int getsockname(int fd, int64_t address, int64_t addressLength)');
const getpeernameNative = bind('int getpeername(int fd, int64_t address, int64_t addressLength)');
const getsockoptNative = bind(
  'int getsockopt(int fd, int level, int name, int64_t value, int64_t length)',
);
const socketpairNative = bind('int socketpair(int domain, int type, int protocol, int64_t fds)');
const sendmsgNative = bind('int64_t sendmsg(int fd, int64_t message, int flags)');
const recvmsgNative = bind('int64_t recvmsg(int fd, int64_t message, int flags)');
const dup3Native = bind('int dup3(int from, int to, int flags)');
const fcntlNative = bind('int fcntl(int fd, int command, int64_t argument)');
const gettidNative = bind('int gettid()');
const tgkillNative = bind('int tgkill(int tgid, int tid, int signal)');
const syscallNative = bind(
  'int64_t syscall(int64_t number, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f)',
);

/** A call's result, or the negative errno instead of -1. */
export function result(value: number): number {
  return value < 0 ? -nativeErrno() : value;
}

export const ioctl = (fd: number, request: number, argument: number): number =>
  result(ioctlNative(fd, request, argument));
export const open = (path: string, flags: number, mode = 0): number =>
  result(openNative(path, flags, mode));
export const close = (fd: number): number => result(closeNative(fd));
export const read = (fd: number, address: number, length: number): number =>
  result(readNative(fd, address, length));
export const write = (fd: number, address: number, length: number): number =>
  result(writeNative(fd, address, length));
export const readv = (fd: number, iovec: number, count: number): number =>
  result(readvNative(fd, iovec, count));
export const writev = (fd: number, iovec: number, count: number): number =>
  result(writevNative(fd, iovec, count));
export const preadv = (fd: number, iovec: number, count: number, offset: number): number =>
  result(preadvNative(fd, iovec, count, offset));
export const pwritev = (fd: number, iovec: number, count: number, offset: number): number =>
  result(pwritevNative(fd, iovec, count, offset));
/** preadv(2) with RWF_ flags. */
export const preadv2 = (
  fd: number,
  iovec: number,
  count: number,
  offset: number,
  flags: number,
): number => result(preadv2Native(fd, iovec, count, offset, flags));
/** pwritev(2) with RWF_ flags. */
export const pwritev2 = (
  fd: number,
  iovec: number,
  count: number,
  offset: number,
  flags: number,
): number => result(pwritev2Native(fd, iovec, count, offset, flags));
export const fdatasync = (fd: number): number => result(fdatasyncNative(fd));
export const fallocate = (fd: number, mode: number, offset: number, length: number): number =>
  result(fallocateNative(fd, mode, offset, length));
export const ftruncate = (fd: number, length: number): number =>
  result(ftruncateNative(fd, length));
export const mmap = (
  address: number,
  length: number,
  protection: number,
  flags: number,
  fd: number,
  offset: number,
): number => result(mmapNative(address, length, protection, flags, fd, offset));
export const munmap = (address: number, length: number): number =>
  result(munmapNative(address, length));
export const madvise = (address: number, length: number, advice: number): number =>
  result(madviseNative(address, length, advice));
export const memfdCreate = (name: string, flags: number): number =>
  result(memfdCreateNative(name, flags));
export const eventfd = (initial: number, flags: number): number =>
  result(eventfdNative(initial, flags));
export const epollCreate1 = (flags: number): number => result(epollCreateNative(flags));
export const epollCtl = (epfd: number, op: number, fd: number, event: number): number =>
  result(epollCtlNative(epfd, op, fd, event));
export const epollWait = (epfd: number, events: number, max: number, timeoutMs: number): number =>
  result(epollWaitNative(epfd, events, max, timeoutMs));
export const poll = (fds: number, count: number, timeoutMs: number): number =>
  result(pollNative(fds, count, timeoutMs));
export const flock = (fd: number, operation: number): number => result(flockNative(fd, operation));
export const socket = (domain: number, type: number, protocol: number): number =>
  result(socketNative(domain, type, protocol));
/** bind(2). */
export const bindSocket = (fd: number, address: number, length: number): number =>
  result(bindNative(fd, address, length));
export const listen = (fd: number, backlog: number): number => result(listenNative(fd, backlog));
export const connect = (fd: number, address: number, length: number): number =>
  result(connectNative(fd, address, length));
/** accept4(2), without the peer's address. */
export const accept = (fd: number, flags: number): number => result(acceptNative(fd, 0, 0, flags));
export const getsockname = (fd: number, address: number, addressLength: number): number =>
  result(getsocknameNative(fd, address, addressLength));
export const getpeername = (fd: number, address: number, addressLength: number): number =>
  result(getpeernameNative(fd, address, addressLength));
export const getsockopt = (
  fd: number,
  level: number,
  name: number,
  value: number,
  length: number,
): number => result(getsockoptNative(fd, level, name, value, length));
export const socketpair = (domain: number, type: number, protocol: number, fds: number): number =>
  result(socketpairNative(domain, type, protocol, fds));
export const sendmsg = (fd: number, message: number, flags: number): number =>
  result(sendmsgNative(fd, message, flags));
export const recvmsg = (fd: number, message: number, flags: number): number =>
  result(recvmsgNative(fd, message, flags));
export const dup3 = (from: number, to: number, flags: number): number =>
  result(dup3Native(from, to, flags));
export const fcntl = (fd: number, command: number, argument = 0): number =>
  result(fcntlNative(fd, command, argument));
export const gettid = (): number => gettidNative();
export const tgkill = (tgid: number, tid: number, signal: number): number =>
  result(tgkillNative(tgid, tid, signal));
/** fcntl(2), F_ADD_SEALS. libc's function takes its argument as printf does. */
export const addSeals = (fd: number, seals: number): number =>
  result(syscallNative(72, fd, 1033, seals, 0, 0, 0));
/** A system call that libc has no function for, by its number. */
export const syscall = (number: number, a: number, b: number, c = 0, d = 0, e = 0, f = 0): number =>
  result(syscallNative(number, a, b, c, d, e, f));

export const O_RDONLY = 0;
export const O_RDWR = 2;
export const O_CLOEXEC = 0o2000000;
export const O_NONBLOCK = 0o4000;
export const O_DIRECT = 0o40000;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const PROT_NONE = 0;
export const MAP_SHARED = 1;
export const MAP_PRIVATE = 2;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;

/** asm-generic/errno.h: what a call on a file, a device or a socket gives and Node has no name for. */
const OTHER_ERRNOS: readonly (readonly [number, string])[] = [
  [15, 'ENOTBLK'],
  [52, 'EBADE'],
  [53, 'EBADR'],
  [64, 'ENONET'],
  [66, 'EREMOTE'],
  [70, 'ECOMM'],
  [76, 'ENOTUNIQ'],
  [77, 'EBADFD'],
  [78, 'EREMCHG'],
  [85, 'ERESTART'],
  [87, 'EUSERS'],
  [94, 'ESOCKTNOSUPPORT'],
  [96, 'EPFNOSUPPORT'],
  [108, 'ESHUTDOWN'],
  [109, 'ETOOMANYREFS'],
  [112, 'EHOSTDOWN'],
  [117, 'EUCLEAN'],
  [121, 'EREMOTEIO'],
  [123, 'ENOMEDIUM'],
  [124, 'EMEDIUMTYPE'],
  [126, 'ENOKEY'],
  [130, 'EOWNERDEAD'],
  [131, 'ENOTRECOVERABLE'],
  [133, 'EHWPOISON'],
];

const errnoNames = new Map<number, string>([
  ...OTHER_ERRNOS,
  ...Object.entries(os.errno).map(([name, value]) => [value, name] as const),
]);
const strerror = libc.func('const char *strerror(int errnum)') as unknown as (e: number) => string;

/** The header's name of a positive errno, e.g. `EACCES`. */
export function errnoName(errno: number): string {
  return errnoNames.get(errno) ?? `errno ${errno}`;
}

const remedies: Readonly<Record<string, string>> = {
  EMFILE: 'raise the limit on open files (ulimit -n)',
  ENOMEM: "free some memory or reduce the guest's (--memory)",
};

/**
 * Turns a negative result into an exception.
 * @param result what one of the functions above returned
 * @param call the system call's or ioctl's name
 * @param object what it was applied to
 * @param remedy what the user can do about it
 * @returns the result when it is not negative
 * @throws HostError naming call, object, errno and remedy
 */
export function check(result: number, call: string, object: string, remedy?: string): number {
  if (result >= 0) return result;
  throw callError(result, call, object, remedy);
}

/** What `check` throws for a negative result. */
export function callError(
  result: number,
  call: string,
  object: string,
  remedy?: string,
): HostError {
  const name = errnoName(-result);
  const text = strerror(-result);
  return new HostError(call, object, -result, name, text, remedy ?? remedies[name]);
}
