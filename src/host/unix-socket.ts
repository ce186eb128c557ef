/** Unix stream sockets that carry file descriptors (SCM_RIGHTS, unix(7)) along with the bytes. */
import { UsageError } from './errors.ts';
import { Fd } from './fd.ts';
import { NativeMemory } from './native-memory.ts';
import * as sys from './syscall.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const SO_PEERCRED = 17;
const MSG_CTRUNC = 0x8;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x4000_0000;

/** `struct sockaddr_un`: family, then a path and the zero that ends it. */
const SUN_PATH_OFFSET = 2;
export const SUN_PATH_SIZE = 108;

/** struct msghdr, struct iovec and struct cmsghdr on x86-64: where the fields that we use lie. */
const MSGHDR_SIZE = 56;
const MSG_IOV = 16;
const MSG_IOVLEN = 24;
const MSG_CONTROL = 32;
const MSG_CONTROLLEN = 40;
const MSG_FLAGS = 48;
const IOVEC_SIZE = 16;
const CMSG_LEVEL = 8;
const CMSG_TYPE = 12;
const CMSG_DATA = 16;

/** `struct ucred`: process, user and group ID, 32 bits each. */
const UCRED_SIZE = 12;
const UCRED_UID = 4;

/** Descriptors that one message may carry. An even number: then no padding lets one more in. */
export const MAX_FDS = 8;

/** `receive` found that the peer sent more descriptors than `MAX_FDS`; none of them is kept. */
export const TOO_MANY_FDS = -4095;

/** One end of a connection; owns its descriptor. Nothing here blocks. */
export class UnixSocket extends Fd {
  readonly #header = new NativeMemory(MSGHDR_SIZE);
  readonly #iovec = new NativeMemory(IOVEC_SIZE);
  readonly #control = new NativeMemory(CMSG_DATA + MAX_FDS * 4);

  /** @param fd owned from here on */
  constructor(fd: number) {
    super(fd);
    const { view } = this.#header;
    view.setBigUint64(MSG_IOV, BigInt(this.#iovec.address), true);
    view.setBigUint64(MSG_IOVLEN, 1n, true);
  }

  /**
   * Connects to a socket that listens at a path. In a folder like /tmp any user may listen there
   * first: the listener must be this user, or root.
   * @param trusted another user that may be there
   * @throws HostError when nothing listens; UsageError when another user does
   */
  static connect(file: string, trusted?: number): UnixSocket {
    const socket = openUnixSocket(file);
    try {
      const address = unixAddress(file);
      const result = sys.connect(socket.fd, address.address, address.bytes.length);
      sys.check(result, 'connect', file, 'start the listening program first');
      const uid = socket.peerUid();
      if (isTrusted(uid, trusted)) return socket;
      throw new UsageError(
        'E_PEER_USER',
        `the peer at ${file} is user ${uid}, neither root nor you`,
        'use a socket in a folder of your own, or allow that user (peer-uid)',
      );
    } catch (error) {
      socket.close();
      throw error;
    }
  }

  /**
   * The user at the other end, who connected or listened (SO_PEERCRED, unix(7)).
   * @throws HostError
   */
  peerUid(): number {
    const credentials = new NativeMemory(UCRED_SIZE);
    const length = new NativeMemory(4);
    length.view.setUint32(0, UCRED_SIZE, true);
    const result = sys.getsockopt(
      this.fd,
      SOL_SOCKET,
      SO_PEERCRED,
      credentials.address,
      length.address,
    );
    sys.check(result, 'getsockopt', 'SO_PEERCRED of a unix socket');
    return credentials.view.getUint32(UCRED_UID, true);
  }

  /** Two that are connected to each other. @throws HostError */
  static pair(): [UnixSocket, UnixSocket] {
    const fds = new NativeMemory(8);
    const type = SOCK_STREAM | sys.O_CLOEXEC | sys.O_NONBLOCK;
    sys.check(sys.socketpair(AF_UNIX, type, 0, fds.address), 'socketpair', 'two unix sockets');
    return [new UnixSocket(fds.view.getInt32(0, true)), new UnixSocket(fds.view.getInt32(4, true))];
  }

  /**
   * Takes a connection from a listening socket: of this user, or of root. Others are hung up on.
   * @param trusted another user who may connect
   * @returns undefined when none waits (any more), or it was another user's
   * @throws HostError when there is no descriptor left for it
   */
  static accept(listening: number, trusted?: number): UnixSocket | undefined {
    const fd = sys.accept(listening, sys.O_CLOEXEC | sys.O_NONBLOCK);
    const gone = ['EAGAIN', 'EINTR', 'ECONNABORTED'];
    if (fd < 0 && gone.includes(sys.errnoName(-fd))) return undefined;
    const socket = new UnixSocket(sys.check(fd, 'accept', 'a unix socket'));
    if (isTrusted(socket.peerUid(), trusted)) return socket;
    socket.close();
    return undefined;
  }

  /**
   * Sends bytes, and descriptors with the first of them. The descriptors stay the caller's.
   * @param fds at most MAX_FDS
   * @returns bytes taken, which may be fewer (the descriptors went with the first), or a negative errno
   */
  send(bytes: NativeMemory, offset: number, length: number, fds: readonly number[]): number {
    const control = this.#control.view;
    const controlLength = fds.length === 0 ? 0 : CMSG_DATA + fds.length * 4;
    control.setBigUint64(0, BigInt(controlLength), true);
    control.setInt32(CMSG_LEVEL, SOL_SOCKET, true);
    control.setInt32(CMSG_TYPE, SCM_RIGHTS, true);
    for (const [i, fd] of fds.entries()) control.setInt32(CMSG_DATA + i * 4, fd, true);
    // CMSG_SPACE: the kernel reads whole words.
    this.#prepare(bytes, offset, length, Math.ceil(controlLength / 8) * 8);
    return sys.sendmsg(this.fd, this.#header.address, MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  /**
   * Receives bytes.
   * @param fds gets the descriptors that came with them, as their owner's
   * @returns bytes received, 0 at the end, TOO_MANY_FDS, or a negative errno
   */
  receive(bytes: NativeMemory, offset: number, length: number, fds: Fd[]): number {
    this.#prepare(bytes, offset, length, this.#control.bytes.length);
    const result = sys.recvmsg(this.fd, this.#header.address, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (result < 0) return result;
    const received = this.#takeFds();
    if ((this.#header.view.getInt32(MSG_FLAGS, true) & MSG_CTRUNC) !== 0) {
      // The kernel has dropped the ones that found no room; the others are of no use without them.
      for (const fd of received) fd.close();
      return TOO_MANY_FDS;
    }
    fds.push(...received);
    return result;
  }

  /**
   * True when this and `socket` are ends of connections to one path, whichever of them listened
   * there: of the same connection, or of two.
   */
  leadsTo(socket: UnixSocket): boolean {
    const { getsockname, getpeername } = sys;
    const isJoined = (here: typeof getsockname, there: typeof getsockname): boolean => {
      const name = nameOf(this.fd, here);
      return name !== '' && name === nameOf(socket.fd, there);
    };
    return isJoined(getpeername, getsockname) || isJoined(getsockname, getpeername);
  }

  #prepare(bytes: NativeMemory, offset: number, length: number, control: number): void {
    this.#iovec.view.setBigUint64(0, BigInt(bytes.address + offset), true);
    this.#iovec.view.setBigUint64(8, BigInt(length), true);
    const { view } = this.#header;
    view.setBigUint64(MSG_CONTROL, BigInt(control === 0 ? 0 : this.#control.address), true);
    view.setBigUint64(MSG_CONTROLLEN, BigInt(control), true);
    view.setInt32(MSG_FLAGS, 0, true);
  }

  /** The kernel puts all descriptors of one message into one control message. */
  #takeFds(): Fd[] {
    const space = Number(this.#header.view.getBigUint64(MSG_CONTROLLEN, true));
    const { view } = this.#control;
    if (space < CMSG_DATA) return [];
    if (view.getInt32(CMSG_LEVEL, true) !== SOL_SOCKET) return [];
    if (view.getInt32(CMSG_TYPE, true) !== SCM_RIGHTS) return [];
    const length = Math.min(Number(view.getBigUint64(0, true)), view.byteLength);
    const fds: Fd[] = [];
    for (let at = CMSG_DATA; at + 4 <= length; at += 4) fds.push(new Fd(view.getInt32(at, true)));
    return fds;
  }
}

/** Whether a user may be at the other end. */
function isTrusted(uid: number, trusted: number | undefined): boolean {
  return uid === 0 || uid === process.geteuid?.() || uid === trusted;
}

/** A stream socket that is not connected yet. @param file for the error. @throws HostError */
export function openUnixSocket(file: string): UnixSocket {
  const type = SOCK_STREAM | sys.O_NONBLOCK | sys.O_CLOEXEC;
  return new UnixSocket(sys.check(sys.socket(AF_UNIX, type, 0), 'socket', file));
}

/** `struct sockaddr_un` for a path. */
export function unixAddress(file: string): NativeMemory {
  const bytes = Buffer.from(file);
  const address = new NativeMemory(SUN_PATH_OFFSET + bytes.length + 1);
  address.view.setUint16(0, AF_UNIX, true);
  address.bytes.set(bytes, SUN_PATH_OFFSET);
  return address;
}

/** The address of a socket's end; empty when it has none. */
function nameOf(fd: number, call: typeof sys.getsockname): string {
  const address = new NativeMemory(SUN_PATH_OFFSET + SUN_PATH_SIZE);
  const length = new NativeMemory(4);
  length.view.setUint32(0, address.bytes.length, true);
  if (call(fd, address.address, length.address) < 0) return '';
  const end = Math.min(length.view.getUint32(0, true), address.bytes.length);
  return Buffer.from(address.bytes.subarray(SUN_PATH_OFFSET, end)).toString('latin1');
}
