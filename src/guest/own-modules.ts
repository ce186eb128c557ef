/** Kernel modules of one's own: compiled for a guest's kernel, and added to its initramfs. The results stay in the cache. */
import {
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { messageParts, UsageError } from '../host/errors.ts';
import { cacheFolder, contentHash, publishFolder } from './cache.ts';
import { CpioArchive } from './cpio.ts';
import { downloadPackage, packageDependencies, unpackPackage } from './debian.ts';
import type { Guest } from './guests.ts';
import { kernelOf, moduleGraph, type Progress } from './kernel.ts';
import { moduleName, readModuleInfo } from './kernel-modules.ts';
import { findProgram, run } from './programs.ts';
import { type Recipe, recipes } from './recipe.ts';

const SOURCES = /^(Kbuild|Makefile)$|\.[chS]$/;

/**
 * Compiles a folder with a Kbuild file, unless it was compiled before.
 * @param folder its sources; nothing is written there
 * @returns paths of the .ko files
 * @throws UsageError with the compiler's first complaint
 */
export async function buildModules(
  folder: string,
  kernelVersion: string,
  progress: Progress = () => {},
): Promise<string[]> {
  const source = resolve(folder);
  const names = existsSync(source) ? readdirSync(source).filter((name) => SOURCES.test(name)) : [];
  if (!names.includes('Kbuild') && !names.includes('Makefile')) {
    throw new UsageError(
      'E_MODULE',
      `${folder} has no Kbuild`,
      "name a folder with a module's sources",
    );
  }
  const build = await prepareHeaders(kernelVersion, progress);
  const contents = names.sort().flatMap((name) => [name, readFileSync(join(source, name))]);
  const hash = contentHash([kernelVersion, ...contents]).slice(0, 16);
  const target = cacheFolder('modules', `${basename(source)}-${hash}`);
  if (!existsSync(target)) {
    progress(`${folder}: compiling`, 0.7);
    await publishFolder(target, async (into) => {
      for (const name of names) copyFileSync(join(source, name), join(into, name));
      await compile(build, into, source);
    });
  }
  const modules = readdirSync(target).filter((name) => name.endsWith('.ko'));
  if (modules.length > 0) return modules.map((name) => join(target, name));
  throw new UsageError(
    'E_MODULE',
    `${folder} builds no module`,
    'its Kbuild needs obj-m := NAME.o',
  );
}

/** @param source what the messages are to name in the place of `into` */
async function compile(build: string, into: string, source: string): Promise<void> {
  const compiler = kernelCompiler(build);
  // Another version warns, and mostly works.
  const fits = compiler === undefined || findProgram(`x86_64-linux-gnu-${compiler}`) !== undefined;
  const choice = fits ? [] : ['CC=gcc'];
  try {
    await run(
      ['make', '--silent', '-C', build, `M=${into}`, ...choice, 'modules'],
      'apt-get install build-essential when the compiler is missing',
    );
  } catch (error) {
    const [why, remedy] = messageParts(error);
    throw new UsageError('E_MODULE', why.replaceAll(into, source), remedy, { cause: error });
  }
}

/**
 * Fetches and unpacks the header packages of a guest's kernel into the cache, once.
 * @param version as in `uname -r`
 * @returns the folder for `make -C`
 * @throws UsageError when the packages are not available
 */
export async function prepareHeaders(
  version: string,
  progress: Progress = () => {},
): Promise<string> {
  const folder = cacheFolder('headers', version);
  const build = join(folder, 'usr/src', `linux-headers-${version}`);
  if (existsSync(build)) return build;
  const name = `linux-headers-${version}`;
  progress(`linux ${version}: downloading headers`, 0.2);
  const own = await downloadPackage(name).catch((cause: unknown) => {
    throw new UsageError(
      'E_HEADERS',
      `no headers found for the guest's kernel ${version}: ${messageParts(cause)[0]}`,
      `if the archive has only newer ones, remove ${cacheFolder('kernels', version)} and build again`,
      { cause },
    );
  });
  const needed = (await packageDependencies(own)).filter((other) =>
    /^linux-(headers-.*-common|kbuild-.*)$/.test(other),
  );
  const debs = [own];
  for (const other of needed) debs.push(await downloadPackage(other));
  progress(`linux ${version}: unpacking headers`, 0.5);
  await publishFolder(folder, async (into) => {
    for (const deb of debs) await unpackPackage(deb, into);
    relocate(join(into, 'usr/src', name), join(folder, 'usr/src'));
  });
  return build;
}

/** The packages expect to lie in /usr/src; their links are relative already. */
function relocate(build: string, sources: string): void {
  const makefile = join(build, 'Makefile');
  writeFileSync(makefile, readFileSync(makefile, 'utf8').replaceAll('/usr/src', sources));
  // Type information for BPF would be made from it, by a program that few hosts have.
  rmSync(join(build, 'vmlinux'), { force: true });
}

/** The compiler that the kernel was built with, as its headers name it: `gcc-12`. */
export function kernelCompiler(build: string): string | undefined {
  const file = join(build, '.kernelvariables');
  if (!readdirSync(build).includes('.kernelvariables')) return undefined;
  return /\b(gcc-\d+)\s*$/m.exec(readFileSync(file, 'utf8'))?.[1];
}

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
    throw new UsageError('E_FILE', `no module ${module}`, 'use a .ko file or its folder');
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
        `${file} is for Linux ${info.kernel ?? 'unknown'}, the guest has ${kernel.version}`,
        'pass the folder of its sources',
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
