/** Unpacked kernels on disk, so that only the first start of a kernel pays for unpacking it. */
import { createHash, randomBytes } from 'node:crypto';
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { cachePath, checkedCache } from '../host/private-folder.ts';
import { BufferSource, type ByteSource, FileSource } from './byte-source.ts';
import { decompressKernel } from './decompress.ts';
import { type ElfImage, parseElf } from './elf.ts';
import type { BzImage } from './kernel-image.ts';

/** Kernels that the cache holds at most, 50 to 100 MB each. */
export const MOST_CACHED_KERNELS = 8;
/** A temporary file this old is what a killed process left behind. */
const STALE_MS = 60 * 60 * 1000;
const SUFFIX = '.vmlinux';

/** An unpacked kernel, open for loading. */
export interface UnpackedKernel {
  readonly source: ByteSource;
  readonly image: ElfImage;
}

/** `$XDG_CACHE_HOME/nodevmm/vmlinux`, or the same below `~/.cache`. */
export function defaultKernelCache(env?: NodeJS.ProcessEnv): string {
  return join(cachePath(env), 'vmlinux');
}

/**
 * The vmlinux of a bzImage, from the cache or unpacked into it. A cache that cannot be written, or
 * that another user can write, costs the time of unpacking at each start and nothing else.
 * @param file the bzImage
 * @param cacheDir the cache's folder, made when missing
 * @throws UsageError when the image is damaged or a program to unpack it is missing
 */
export async function unpackKernel(
  file: FileSource,
  bzImage: BzImage,
  cacheDir: string,
): Promise<UnpackedKernel> {
  const key = createHash('sha256').update(file.identity()).digest('hex').slice(0, 32);
  const folder = usableCache(cacheDir);
  const path = folder === undefined ? undefined : join(folder, `${key}${SUFFIX}`);
  const cached = path === undefined ? undefined : openCached(path);
  if (cached !== undefined) return cached;

  const payload = new Uint8Array(bzImage.payloadSize);
  file.read(bzImage.payloadOffset, payload);
  const vmlinux = await decompressKernel(payload, file.name);
  const source = new BufferSource(vmlinux, `unpacked ${file.name}`);
  const image = parseElf(source);
  if (folder !== undefined && path !== undefined) store(folder, path, vmlinux);
  return { source, image };
}

/** What is in it gets booted: undefined where that is for another user to choose. */
function usableCache(folder: string): string | undefined {
  try {
    return checkedCache(folder);
  } catch {
    return undefined;
  }
}

function openCached(path: string): UnpackedKernel | undefined {
  let source: FileSource | undefined;
  try {
    source = new FileSource(path, 'unpacked kernel');
    const image = parseElf(source);
    const now = new Date();
    utimesSync(path, now, now);
    return { source, image };
  } catch {
    // Missing, or cut short by a full disk or a crash: it is unpacked again.
    source?.close();
    return undefined;
  }
}

/** Stores a kernel if the folder lets us; otherwise the next start unpacks again. */
function store(cacheDir: string, path: string, vmlinux: Uint8Array): void {
  try {
    mkdirSync(cacheDir, { recursive: true, mode: 0o700 });
    writeAtomically(path, join(cacheDir, `.${randomBytes(8).toString('hex')}.tmp`), vmlinux);
    prune(cacheDir);
  } catch {
    // No folder, no right, no room: see above.
  }
}

/** Readers see the whole file or none, and two writers do no harm. */
function writeAtomically(path: string, temporary: string, bytes: Uint8Array): void {
  const fd = openSync(temporary, 'wx', 0o600);
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
}

/** Keeps the kernels used last. */
function prune(cacheDir: string): void {
  const files = readdirSync(cacheDir).map((name) => {
    const path = join(cacheDir, name);
    return { path, name, usedMs: statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0 };
  });
  const stale = files.filter(
    ({ name, usedMs }) => name.endsWith('.tmp') && usedMs < Date.now() - STALE_MS,
  );
  const surplus = files
    .filter(({ name }) => name.endsWith(SUFFIX))
    .sort((a, b) => b.usedMs - a.usedMs)
    .slice(MOST_CACHED_KERNELS);
  for (const { path } of [...stale, ...surplus]) rmSync(path, { force: true });
}
