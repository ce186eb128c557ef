/**
 * A unix socket that listens at a path: the file that a dead process left there is replaced, and
 * ours is removed on every way out but SIGKILL's.
 */
import { lstatSync, unlinkSync } from 'node:fs';
import path from 'node:path';
import { UsageError } from './errors.ts';
import { onProcessExit } from './exit-wake.ts';
import type { Fd } from './fd.ts';
import * as sys from './syscall.ts';
import { openUnixSocket, SUN_PATH_SIZE, unixAddress } from './unix-socket.ts';

const ENOENT = 2;
const EADDRINUSE = 98;
const ECONNREFUSED = 111;
/** Connections that may wait to be accepted. */
const BACKLOG = 128;

/** The owner of the socket's file, and of the socket until somebody takes it. */
export class ListenPath implements Disposable {
  /** Absolute. */
  readonly path: string;
  readonly #socket: Fd;
  readonly #inode: bigint;
  readonly #forget: () => void;
  #taken = false;

  /**
   * @param suffix room for it is left in the name: for the longest of other sockets beside it
   * @throws UsageError or HostError, in one line, when the path cannot be listened on
   */
  constructor(file: string, suffix = '') {
    this.path = path.resolve(file);
    const longest = SUN_PATH_SIZE - 1 - Buffer.byteLength(suffix);
    const length = Buffer.byteLength(this.path);
    if (file === '' || length > longest || this.path.includes('\0')) {
      throw refusal(file, `its full name has ${length} bytes; take one of 1 to ${longest}`);
    }
    this.#socket = bind(this.path);
    try {
      this.#inode = lstatSync(this.path, { bigint: true }).ino;
      sys.check(sys.listen(this.#socket.fd, BACKLOG), 'listen', this.path);
    } catch (error) {
      this.#socket.close();
      throw error;
    }
    this.#forget = onProcessExit(() => this.#remove());
  }

  /** The socket, non-blocking; it stays this object's. */
  get fd(): number {
    return this.#socket.fd;
  }

  /** The socket, non-blocking; who takes it closes it. */
  takeFd(): number {
    this.#taken = true;
    return this.#socket.fd;
  }

  /** Removes the file. */
  close(): void {
    this.#forget();
    this.#remove();
    if (!this.#taken) this.#socket.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Not a file that somebody else put there meanwhile. */
  #remove(): void {
    try {
      if (lstatSync(this.path, { bigint: true }).ino === this.#inode) unlinkSync(this.path);
    } catch {
      // Gone, or its folder is.
    }
  }
}

/** @throws UsageError */
function bind(file: string): Fd {
  const socket = openUnixSocket(file);
  try {
    const address = unixAddress(file);
    const { length } = address.bytes;
    let result = sys.bindSocket(socket.fd, address.address, length);
    if (result === -EADDRINUSE) {
      replaceStale(file);
      result = sys.bindSocket(socket.fd, address.address, length);
    }
    if (result === 0) return socket;
    const name = sys.errnoName(-result);
    const folder = path.dirname(file);
    if (name === 'ENOENT') throw refusal(file, `there is no folder ${folder}; make it first`);
    if (name === 'ENOTDIR') throw refusal(file, `${folder} is no folder; name another`);
    if (name === 'EACCES') {
      throw refusal(file, `you may not write to ${folder}; name another folder`);
    }
    throw refusal(file, `the host says ${name}; name another path`);
  } catch (error) {
    socket.close();
    throw error;
  }
}

/** @throws UsageError when the file is not a dead process's socket */
function replaceStale(file: string): void {
  if (!lstatSync(file).isSocket()) {
    throw refusal(file, 'a file that is no socket is there; remove it, or name another path');
  }
  if (isListening(file)) {
    throw refusal(file, 'another process listens on it; stop that one, or name another path');
  }
  unlinkSync(file);
}

/** True when a process answers at a unix socket's path. */
export function isListening(file: string): boolean {
  using probe = openUnixSocket(file);
  const address = unixAddress(file);
  const result = sys.connect(probe.fd, address.address, address.bytes.length);
  return result !== -ECONNREFUSED && result !== -ENOENT;
}

function refusal(file: string, why: string): UsageError {
  return new UsageError('E_SOCKET_PATH', `cannot listen on ${JSON.stringify(file)}: ${why}`);
}
