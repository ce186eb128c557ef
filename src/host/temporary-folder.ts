/** A folder of this process: gone with it, or, when it is killed, with the next that looks. */
import { closeSync, constants, fstatSync, mkdtempSync, openSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { onProcessExit } from './exit-wake.ts';
import { trustedPath } from './private-folder.ts';
import { removeTree, within } from './remove-tree.ts';
import * as sys from './syscall.ts';

/** sys/file.h. The lock is its owner's sign of life, in whatever PID namespace that is. */
const LOCK_EX = 2;
const LOCK_NB = 4;
const FOLDER = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;

/** Nobody else can enter it. */
export class TemporaryFolder implements Disposable {
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
    this.#parent = openSync(parent, FOLDER);
    try {
      [this.path, this.#fd] = make(join(parent, prefix));
    } catch (error) {
      closeSync(this.#parent);
      throw error;
    }
    this.#forget = onProcessExit(() => this[Symbol.dispose]());
  }

  /** Removes it. What cannot be removed is left. */
  [Symbol.dispose](): void {
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
