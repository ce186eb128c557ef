/** Guests with kernel modules of one's own in their initramfs. */
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../host/errors.ts';
import { cacheFolder, contentHash, publishFolder } from './cache.ts';
import { CpioArchive } from './cpio.ts';
import type { Guest } from './guests.ts';
import { kernelOf, moduleGraph, type Progress } from './kernel.ts';
import { moduleName, readModuleInfo } from './kernel-modules.ts';
import { buildModules } from './module-build.ts';
import { type Recipe, recipes } from './recipe.ts';

/**
 * A guest with more kernel modules, which it loads on its own where it finds their devices.
 * @param modules .ko files, or folders to compile
 * @returns the guest with an initramfs of its own, in the cache
 * @throws UsageError when a module cannot be made, or is for another kernel
 */
export async function withModules(
  guest: Guest,
  modules: readonly string[],
  progress: Progress = () => {},
): Promise<Guest> {
  if (modules.length === 0) return guest;
  const files: string[] = [];
  for (const module of modules)
    files.push(...(await filesOf(module, guest.kernelVersion, progress)));
  const overlay = makeOverlay(guest, files);
  const hash = contentHash([guest.hash, overlay]);
  const folder = cacheFolder('guests-with-modules', hash.slice(0, 16));
  await publishFolder(folder, (into) => {
    // The kernel unpacks archives one after the other; what comes later replaces what was there.
    writeFileSync(join(into, 'initrd'), Buffer.concat([readFileSync(guest.initrd), overlay]));
  });
  const initrd = join(folder, 'initrd');
  return { ...guest, initrd, initrdSize: statSync(initrd).size, hash };
}

async function filesOf(module: string, version: string, progress: Progress): Promise<string[]> {
  const stat = statSync(module, { throwIfNoEntry: false });
  if (stat === undefined) {
    throw new UsageError('E_FILE', `no module ${module}; use a .ko file or its folder`);
  }
  return stat.isDirectory() ? await buildModules(module, version, progress) : [module];
}

/** The modules, and lists with them and those of the image. */
function makeOverlay(guest: Guest, files: readonly string[]): Buffer {
  const kernel = kernelOf(guest.kernelVersion);
  const known: Readonly<Record<string, Recipe>> = recipes;
  const modules = known[guest.name]?.modules ?? [];
  const graph = moduleGraph(kernel.modules, modules);
  const paths = graph.closure(modules);
  const cpio = new CpioArchive();
  const folder = `lib/modules/${kernel.version}`;
  for (const file of files) {
    const elf = readFileSync(file);
    const info = readModuleInfo(file, elf);
    if (info.kernel !== kernel.version) {
      throw new UsageError(
        'E_MODULE',
        `${file} is for Linux ${info.kernel ?? 'unknown'}, the guest has ${kernel.version}; pass the folder of its sources`,
      );
    }
    const path = `extra/${moduleName(file)}.ko`;
    graph.add(path, info);
    paths.push(path);
    cpio.file(`${folder}/${path}`, elf);
  }
  cpio.file(`${folder}/modules.dep`, graph.dep(paths));
  cpio.file(`${folder}/modules.alias`, graph.alias(paths));
  return cpio.bytes();
}
