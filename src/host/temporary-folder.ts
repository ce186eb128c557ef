/** A folder of this process: gone with it, or, when it is killed, with the next that looks. */

import {
  closeSync,
  constants,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  unlinkSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { Closeable } from './cleanup-stack.ts';
import { trustedPath } from './private-folder.ts';
import * as sys from './syscall.ts';
import { onProcessExit } from './threads.ts';

/** sys/file.h. The lock is its owner's sign of life, in whatever PID namespace that is. */
const LOCK_EX = 2;
const LOCK_NB = 4;
const FOLDER = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/** No one else can enter it. */
export class TemporaryFolder extends Closeable {
  readonly path: string;
  readonly #fd: number;
  readonly #parent: number;
  readonly #forget: () => void;
  #removed = false;

  /**
   * @param prefix what its name begins with
   * @param parent where nobody else can exchange it. Default: the temporary folder
   * @throws UsageError when the temporary folder is one where others can
   */
  constructor(prefix: string, parent = temporaryParent()) {
    super();
    this.#parent = openSync(parent, FOLDER);
    try {
      [this.path, this.#fd] = make(join(parent, prefix));
    } catch (error) {
      closeSync(this.#parent);
      throw error;
    }
    this.#forget = onProcessExit(() => this.close());
  }

  /** Removes it. What cannot be removed is left. */
  close(): void {
    if (this.#removed) return;
    this.#removed = true;
    this.#forget();
    try {
      remove(this.#parent, basename(this.path), this.#fd);
    } finally {
      closeSync(this.#fd);
      closeSync(this.#parent);
    }
  }

  /** Removes the folders of processes that were killed. @param parent where only we have some */
  static removeStale(prefix: string, parent: string): void {
    const folder = openSync(parent, FOLDER);
    try {
      for (const name of readdirSync(within(folder, '.'))) {
        if (name.startsWith(prefix)) removeUnlocked(folder, name);
      }
    } finally {
      closeSync(folder);
    }
  }
}

/** @returns its path, and its descriptor, which holds the lock */
function make(prefix: string): [string, number] {
  for (;;) {
    const path = mkdtempSync(prefix);
    // Before it is locked, another process may take it for a stale one.
    const fd = openIfThere(path);
    if (fd === undefined) continue;
    if (sys.flock(fd, LOCK_EX | LOCK_NB) === 0 && fstatSync(fd).nlink > 0) return [path, fd];
    closeSync(fd);
  }
}

/** @returns undefined when it is gone, or no folder */
function openIfThere(path: string | Buffer): number | undefined {
  try {
    return openSync(path, FOLDER);
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes(code)) return undefined;
    throw error;
  }
}

function temporaryParent(): string {
  return trustedPath(tmpdir(), {
    code: 'E_TMPDIR',
    name: 'the temporary folder',
    remedy: 'set TMPDIR to a folder of your own',
  });
}

function removeUnlocked(parent: number, name: string): void {
  const fd = openIfThere(within(parent, name));
  if (fd === undefined) return;
  try {
    const { uid } = fstatSync(fd);
    if (uid !== process.geteuid?.() || sys.flock(fd, LOCK_EX | LOCK_NB) !== 0) return;
    remove(parent, name, fd);
  } finally {
    closeSync(fd);
  }
}

/** @param fd the folder is this one, or the name has become another's */
function remove(parent: number, name: string, fd: number): void {
  try {
    const there = openSync(within(parent, name), FOLDER);
    const [a, b] = [fstatSync(there, { bigint: true }), fstatSync(fd, { bigint: true })];
    closeSync(there);
    if (a.ino === b.ino && a.dev === b.dev) removeTree(parent, name);
  } catch {
    // Gone, or in use as a mount point.
  }
}

/**
 * Removes a folder with everything in it, by descriptors: someone who meanwhile exchanges a name for
 * another or for a symbolic link cannot make it remove anything elsewhere. It stays within one mount.
 * @param parent descriptor of the folder that it is in
 * @param name may be that of a file, or of nothing
 * @throws a system error when something cannot be removed, e.g. a mount point
 */
export function removeTree(parent: number, name: string | Buffer): void {
  const path = within(parent, name);
  const fd = openFolder(path);
  if (fd === undefined) {
    unlinkSync(path);
    return;
  }
  if (fd < 0) return;
  try {
    if (mountOf(fd) === mountOf(parent)) {
      for (const child of readdirSync(within(fd, '.'), { encoding: 'buffer' })) {
        removeTree(fd, child);
      }
    }
  } finally {
    closeSync(fd);
  }
  rmdirSync(path);
}

/** What a name in an open folder is for calls that take a path (proc(5), /proc/PID/fd). */
export function within(folder: number, name: string | Buffer): Buffer {
  return Buffer.concat([Buffer.from(`/proc/self/fd/${folder}/`), Buffer.from(name)]);
}

/** @returns undefined for what is not a folder, -1 for nothing */
function openFolder(path: Buffer): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return -1;
    if (code === 'ENOTDIR' || code === 'ELOOP') return undefined;
    throw error;
  }
}

/** A bind mount of the same file system has the same device, but not the same mount. */
function mountOf(fd: number): string | undefined {
  return /^mnt_id:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1];
}
