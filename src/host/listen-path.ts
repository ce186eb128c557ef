/**
 * A unix socket that listens at a path: the file that a dead process of ours left there is replaced,
 * and ours is removed on every way out but SIGKILL's. Whatever the umask, only this user and root can
 * connect (unix(7): who may write to the file), unless others are let in.
 */
import {
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  unlinkSync,
} from 'node:fs';
import path from 'node:path';
import { EADDRINUSE, ECONNREFUSED, ENOENT } from '../abi/errno.ts';
import { O_PATH } from '../abi/files.ts';
import { Closeable } from './cleanup-stack.ts';
import { UsageError } from './errors.ts';
import type { Fd } from './fd.ts';
import { fchmod } from './file-system.ts';
import * as sys from './syscall.ts';
import { within } from './temporary-folder.ts';
import { onProcessExit } from './threads.ts';
import { openUnixSocket, SUN_PATH_SIZE, unixAddress } from './unix-socket.ts';

/** Connections that may wait to be accepted. */
const BACKLOG = 128;

/** What a socket's file allows: to connect to it. */
const FOR_US = 0o600;
const FOR_ALL = 0o666;

/** How a path is listened at. */
export interface ListenOptions {
  /** The name leaves room for it: for the longest name of a socket next to it. */
  readonly suffix?: string;
  /** Everybody may connect; the peer is checked on accept. Default false. */
  readonly forAll?: boolean;
}

/** The owner of the socket's file, and of the socket until it is taken. */
export class ListenPath extends Closeable {
  /** Absolute. */
  readonly path: string;
  readonly #socket: Fd;
  /** The folder, whatever its path comes to mean. */
  readonly #folder: number;
  readonly #inode: bigint;
  readonly #forget: () => void;
  #taken = false;
  #closed = false;

  /** @throws UsageError or HostError, in one line, when the path cannot be listened on */
  constructor(file: string, { suffix = '', forAll = false }: ListenOptions = {}) {
    super();
    this.path = path.resolve(file);
    const longest = SUN_PATH_SIZE - 1 - Buffer.byteLength(suffix);
    const length = Buffer.byteLength(this.path);
    if (file === '' || length > longest || this.path.includes('\0')) {
      throw refusal(
        file,
        `its full name has ${length} bytes, not 1 to ${longest}`,
        'use another path',
      );
    }
    this.#folder = openFolder(this.path);
    try {
      this.#socket = bind(this.path, this.#folder);
    } catch (error) {
      closeSync(this.#folder);
      throw error;
    }
    try {
      const name = within(this.#folder, path.basename(this.path));
      this.#inode = lstatSync(name, { bigint: true }).ino;
      if (forAll) openToAll(name, this.#inode);
      sys.check(sys.listen(this.#socket.fd, BACKLOG), 'listen', this.path);
    } catch (error) {
      this.#socket.close();
      closeSync(this.#folder);
      throw error;
    }
    this.#forget = onProcessExit(() => this.#remove());
  }

  /** The socket, non-blocking; it stays this object's. */
  get fd(): number {
    return this.#socket.fd;
  }

  /** The socket, non-blocking; the caller closes it. */
  takeFd(): number {
    this.#taken = true;
    return this.#socket.fd;
  }

  /** Removes the file. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#forget();
    this.#remove();
    closeSync(this.#folder);
    if (!this.#taken) this.#socket.close();
  }

  /** Not a file that another user put there meanwhile. */
  #remove(): void {
    const file = within(this.#folder, path.basename(this.path));
    try {
      if (lstatSync(file, { bigint: true }).ino === this.#inode) unlinkSync(file);
    } catch {
      // Gone, or its folder is.
    }
  }
}

/** @throws UsageError */
function openFolder(file: string): number {
  const folder = path.dirname(file);
  try {
    return openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw refusal(file, `no folder ${folder}`, 'create it first');
    if (code === 'ENOTDIR') throw refusal(file, `${folder} is not a folder`);
    if (code === 'EACCES') throw mayNotWrite(file);
    throw refusal(file, String(code), 'use another path');
  }
}

/** @param folder descriptor of the folder that the file is in. @throws UsageError */
function bind(file: string, folder: number): Fd {
  const socket = openUnixSocket(file);
  try {
    // The file gets the socket's mode, less the umask, from the first moment on.
    sys.check(fchmod(socket.fd, FOR_US), 'fchmod', file);
    const address = unixAddress(file);
    const { length } = address.bytes;
    let result = sys.bindSocket(socket.fd, address.address, length);
    if (result === -EADDRINUSE) {
      replaceStale(file, folder);
      result = sys.bindSocket(socket.fd, address.address, length);
    }
    if (result === 0) return socket;
    const name = sys.errnoName(-result);
    if (name === 'EACCES') throw mayNotWrite(file);
    throw refusal(file, name, 'use another path');
  } catch (error) {
    socket.close();
    throw error;
  }
}

/** Lets everybody connect. @throws HostError */
function openToAll(name: Buffer, inode: bigint): void {
  // Not by the name: another user's symbolic link may have taken its place.
  const fd = openSync(name, O_PATH | constants.O_NOFOLLOW);
  try {
    if (fstatSync(fd, { bigint: true }).ino === inode) chmodSync(`/proc/self/fd/${fd}`, FOR_ALL);
  } finally {
    closeSync(fd);
  }
}

/** @throws UsageError when the file is not the socket of a dead process of ours */
function replaceStale(file: string, folder: number): void {
  const name = within(folder, path.basename(file));
  const stat = lstatSync(name);
  if (!stat.isSocket()) {
    throw refusal(
      file,
      'a file that is not a socket exists there',
      'remove it, or use another path',
    );
  }
  if (stat.uid !== process.geteuid?.()) {
    throw refusal(file, `the socket there belongs to user ${stat.uid}`, 'use another path');
  }
  if (isListening(file)) {
    throw refusal(file, 'another process is listening on it', 'stop that one, or use another path');
  }
  unlinkSync(name);
}

/** True when a process answers at a unix socket's path. */
export function isListening(file: string): boolean {
  using probe = openUnixSocket(file);
  const address = unixAddress(file);
  const result = sys.connect(probe.fd, address.address, address.bytes.length);
  return result !== -ECONNREFUSED && result !== -ENOENT;
}

function mayNotWrite(file: string): UsageError {
  return refusal(file, `no permission to write to ${path.dirname(file)}`, 'use another folder');
}

function refusal(file: string, why: string, remedy?: string): UsageError {
  const what = `cannot listen on ${JSON.stringify(file)}: ${why}`;
  return new UsageError('E_SOCKET_PATH', what, remedy);
}
