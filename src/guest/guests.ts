/** The guest images in the cache: built when their content would change, else found. */
import {
  copyFileSync,
  existsSync,
  linkSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../host/errors.ts';
import { cacheFolder, contentHash, publishFolder } from './cache.ts';
import { buildInitramfs } from './image.ts';
import { type KernelSeries, type Progress, prepareKernel } from './kernel.ts';
import { type GuestName, type Recipe, recipes } from './recipe.ts';

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

/**
 * Makes a guest image, or finds it made.
 * @throws UsageError when something that it is made of cannot be had
 */
export async function buildGuest(
  name: string,
  options: { readonly kernel?: KernelSeries; readonly onProgress?: Progress } = {},
): Promise<Guest> {
  const progress = options.onProgress ?? (() => {});
  if (!isGuestName(name)) {
    const known = Object.keys(recipes).join(', ');
    throw new UsageError('E_GUEST', `there is no guest ${name}; the guests are ${known}`);
  }
  const kernel = await prepareKernel(options.kernel ?? '6.12', progress);
  progress(`${name}: initramfs`, 0.8);
  const recipe: Recipe = recipes[name];
  const initramfs = await buildInitramfs(recipe, kernel);
  const hash = contentHash([initramfs]);
  const folder = join(guestFolder(), `${name}-${kernel.version}`);
  const found = readGuest(folder);
  if (found?.hash !== hash) {
    const replace = true;
    await publishFolder(
      folder,
      (into) => {
        hardLink(kernel.image, join(into, 'vmlinuz'));
        writeFileSync(join(into, 'initrd'), initramfs);
        const manifest = {
          name,
          kernelVersion: kernel.version,
          initrdSize: initramfs.length,
          hash,
        };
        writeFileSync(join(into, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
      },
      replace,
    );
  }
  progress(`${name}: ready`, 1);
  const guest = readGuest(folder);
  if (guest === undefined)
    throw new UsageError('E_GUEST', `${folder} was removed while it was built; try again`);
  return guest;
}

/** The images in the cache, by name. */
export function listGuests(): Guest[] {
  const folder = guestFolder();
  if (!existsSync(folder)) return [];
  const guests = readdirSync(folder)
    .sort()
    .map((name) => readGuest(join(folder, name)));
  return guests.filter((guest) => guest !== undefined);
}

function guestFolder(): string {
  return join(cacheFolder(), 'guests');
}

function isGuestName(name: string): name is GuestName {
  return Object.hasOwn(recipes, name);
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
