/** The cache folder, and how things get into it: whole, under a name that is taken at once. */
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';

/** `$XDG_CACHE_HOME/nodevmm`, by default `~/.cache/nodevmm` (XDG Base Directory Specification). */
export function cacheFolder(): string {
  const base = process.env.XDG_CACHE_HOME;
  return join(base === undefined || base === '' ? join(homedir(), '.cache') : base, 'nodevmm');
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
 * Fills a new folder beside the target, then moves it there. Whoever comes first wins; a failure
 * leaves nothing behind.
 * @param replace take an existing target's place
 */
export async function publishFolder(
  target: string,
  fill: (folder: string) => void | Promise<void>,
  replace = false,
): Promise<void> {
  const folder = `${target}.${randomBytes(4).toString('hex')}.tmp`;
  mkdirSync(dirname(target), { recursive: true });
  mkdirSync(folder);
  try {
    await fill(folder);
    if (replace) rmSync(target, { recursive: true, force: true });
    if (!existsSync(target)) renameSync(folder, target);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
