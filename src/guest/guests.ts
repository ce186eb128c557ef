/** The guest images in the cache: built when their content would change, else found. */
import {
  copyFileSync,
  existsSync,
  linkSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { UsageError } from '../host/errors.ts';
import {
  cacheFolder,
  contentHash,
  type Fingerprint,
  Inputs,
  isUnchanged,
  publishFolder,
} from './cache.ts';
import { guestsFolder } from './executables.ts';
import { buildInitramfs } from './image.ts';
import { type KernelSeries, type Progress, prepareKernel } from './kernel.ts';
import { type GuestName, recipes } from './recipe.ts';

/** A guest that can be booted. */
export interface Guest {
  readonly name: string;
  readonly kernelVersion: string;
  /** Path of the bzImage. */
  readonly kernel: string;
  /** Path of the initramfs. */
  readonly initrd: string;
  /** Bytes of the initramfs. */
  readonly initrdSize: number;
  /** SHA-256 of the initramfs. */
  readonly hash: string;
}

/** How a guest image is made. */
export interface GuestBuildOptions {
  /** The kernel's series. Default 6.12. */
  readonly kernel?: KernelSeries;
  /** Called before each step. */
  readonly onProgress?: Progress;
}

/** A name that was given. @throws UsageError when no image is named so */
export function guestName(name: string): GuestName {
  if (Object.hasOwn(recipes, name)) return name as GuestName;
  const known = Object.keys(recipes).join(', ');
  throw new UsageError('E_GUEST', `no guest image named ${name}`, `the images are ${known}`);
}

/**
 * Makes a guest image, or finds it made: the first time downloads a kernel of Debian's, for which apt-get
 * is needed. See docs/guests.md.
 * @throws UsageError when an ingredient is missing
 */
export async function buildGuest(name: GuestName, options: GuestBuildOptions = {}): Promise<Guest> {
  const progress = options.onProgress ?? (() => {});
  guestName(name);
  const kernel = await prepareKernel(options.kernel ?? '6.12', progress);
  const fresh = readFresh(name, kernel.version);
  if (fresh !== undefined) return fresh;
  progress(`${name}: initramfs`, 0.8);
  const inputs = new Inputs();
  const initramfs = await buildInitramfs(recipes[name], kernel, inputs);
  const hash = contentHash([initramfs]);
  // Named by content: another checkout's image of the same name does not take its place.
  const folder = join(guestFolder(), `${name}-${kernel.version}-${hash.slice(0, 8)}`);
  await publishFolder(folder, (into) => {
    hardLink(kernel.image, join(into, 'vmlinuz'));
    writeFileSync(join(into, 'initrd'), initramfs);
    const manifest = {
      name,
      kernelVersion: kernel.version,
      initrdSize: initramfs.length,
      hash,
    };
    writeFileSync(join(into, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  });
  const stamp: Stamp = { folder, inputs: inputs.fingerprint() };
  writeFileAtomically(stampFile(name, kernel.version), JSON.stringify(stamp));
  removeOld(`${name}-${kernel.version}-`, folder);
  progress(`${name}: ready`, 1);
  const guest = readGuest(folder);
  if (guest === undefined) {
    throw new UsageError('E_GUEST', `${folder} was removed while it was being built`, 'try again');
  }
  return guest;
}

/** What this checkout's image of a name was made from. */
interface Stamp {
  readonly folder: string;
  readonly inputs: Fingerprint;
}

function stampFile(name: string, version: string): string {
  const checkout = contentHash([guestsFolder]).slice(0, 8);
  return join(guestFolder(), `.${name}-${version}-${checkout}.json`);
}

/** What makes a host use an image that it has, though not what it was made from. */
export function frozenStamp(guest: Guest): { readonly path: string; readonly text: string } {
  const stamp: Stamp = { folder: dirname(guest.initrd), inputs: {} };
  return { path: stampFile(guest.name, guest.kernelVersion), text: JSON.stringify(stamp) };
}

/** The image when nothing that it is made from has changed. */
function readFresh(name: string, version: string): Guest | undefined {
  try {
    const stamp = JSON.parse(readFileSync(stampFile(name, version), 'utf8')) as Stamp;
    return isUnchanged(stamp.inputs) ? readGuest(stamp.folder) : undefined;
  } catch {
    return undefined;
  }
}

const KEEP_MS = 7 * 24 * 3_600_000;

/** Removes images of the same name that are a week old: they may be another checkout's before. */
function removeOld(prefix: string, current: string): void {
  for (const name of readdirSync(guestFolder())) {
    const folder = join(guestFolder(), name);
    if (!name.startsWith(prefix) || folder === current) continue;
    const age = Date.now() - (statSync(folder, { throwIfNoEntry: false })?.mtimeMs ?? Date.now());
    if (age > KEEP_MS) rmSync(folder, { recursive: true, force: true });
  }
}

function writeFileAtomically(path: string, text: string): void {
  const partial = `${path}.${process.pid}.tmp`;
  writeFileSync(partial, text);
  renameSync(partial, path);
}

/** The images in the cache, the newest of each name and kernel. */
export function listGuests(): Guest[] {
  const folder = guestFolder();
  if (!existsSync(folder)) return [];
  const newest = new Map<string, { guest: Guest; made: number }>();
  for (const name of readdirSync(folder).sort()) {
    const guest = readGuest(join(folder, name));
    if (guest === undefined) continue;
    const made = statSync(guest.initrd).mtimeMs;
    const key = `${guest.name}-${guest.kernelVersion}`;
    if (made >= (newest.get(key)?.made ?? 0)) newest.set(key, { guest, made });
  }
  return [...newest.values()].map(({ guest }) => guest);
}

function guestFolder(): string {
  return cacheFolder('guests');
}

function readGuest(folder: string): Guest | undefined {
  if (folder.endsWith('.tmp')) return undefined;
  try {
    const manifest = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8')) as Guest;
    const { name, kernelVersion, initrdSize, hash } = manifest;
    const kernel = join(folder, 'vmlinuz');
    return { name, kernelVersion, kernel, initrd: join(folder, 'initrd'), initrdSize, hash };
  } catch {
    return undefined;
  }
}

function hardLink(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch {
    copyFileSync(from, to);
  }
}
