/** The cache folder, and how things get into it: whole, under a name that is taken at once. */
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { cachePath, checkedCache } from '../host/private-folder.ts';

/**
 * `$XDG_CACHE_HOME/nodevmm`, by default `~/.cache/nodevmm` (XDG Base Directory Specification).
 * @param names of the folder below it that is wanted
 * @throws UsageError when another user could change what is in it: it is booted, and run
 */
export function cacheFolder(...names: readonly string[]): string {
  return checkedCache(join(cachePath(), ...names));
}

/** Hex of a SHA-256 over parts, each with its length, so that no two lists of parts look alike. */
export function contentHash(parts: Iterable<Uint8Array | string>): string {
  const hash = createHash('sha256');
  for (const part of parts) {
    hash.update(`${Buffer.byteLength(part)}:`);
    hash.update(part);
  }
  return hash.digest('hex');
}

/**
 * Fills a new folder next to the target, then moves it there. The first one wins; a failure
 * leaves nothing behind.
 * @param replace take an existing target's place
 */
export async function publishFolder(
  target: string,
  fill: (folder: string) => void | Promise<void>,
  replace = false,
): Promise<void> {
  const folder = `${target}.${randomBytes(4).toString('hex')}.tmp`;
  makeFolder(dirname(target));
  // Whatever the umask lets others do to the files that are made in it.
  mkdirSync(folder, { mode: 0o700 });
  try {
    await fill(folder);
    if (replace) rmSync(target, { recursive: true, force: true });
    if (!existsSync(target)) renameSync(folder, target);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Makes a folder of the cache, and those that it is in, for this user only. */
export function makeFolder(folder: string): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
}

/** Size and time of each file, by path. */
export type Fingerprint = Readonly<Record<string, string>>;

/** Reads files and remembers which. */
export class Inputs {
  readonly #seen: Record<string, string> = {};

  /** A file's bytes. */
  read(path: string): Buffer {
    this.see(path);
    return readFileSync(path);
  }

  /** Remembers a file, or a folder's list of names, that is read otherwise. */
  see(path: string): void {
    this.#seen[path] = stampOf(path);
  }

  fingerprint(): Fingerprint {
    return this.#seen;
  }
}

/** Whether all files are as they were. */
export function isUnchanged(fingerprint: Fingerprint): boolean {
  return Object.entries(fingerprint).every(([path, stamp]) => {
    try {
      return stampOf(path) === stamp;
    } catch {
      return false;
    }
  });
}

function stampOf(path: string): string {
  // npm gives all files of all packages one mtime; ctime is the installation's.
  const { size, mtimeMs, ctimeMs } = statSync(path);
  return `${size} ${mtimeMs} ${ctimeMs}`;
}
