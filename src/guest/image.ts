/** Makes an initramfs from a recipe: the same inputs give the same bytes. */
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { packageFolder } from '../host/package-folder.ts';
import type { Inputs } from './cache.ts';
import { CpioArchive } from './cpio.ts';
import {
  agentBinary,
  busyboxBinary,
  guestsFolder,
  requirePrograms,
  sharedLibraries,
} from './executables.ts';
import { type Kernel, moduleGraph } from './kernel.ts';
import { run } from './programs.ts';
import type { Recipe } from './recipe.ts';

const emptyFolders = ['dev', 'proc', 'sys', 'tmp', 'run', 'mnt', 'root', 'var/log', 'etc'];

/**
 * The initramfs as an uncompressed cpio archive, which a guest unpacks fastest.
 * @param inputs collects what it is made from, except the kernel, which never changes
 */
export async function buildInitramfs(
  recipe: Recipe,
  kernel: Kernel,
  inputs: Inputs,
): Promise<Buffer> {
  const cpio = new CpioArchive();
  for (const module of codeFiles()) inputs.see(join(packageFolder, module));
  for (const folder of emptyFolders) cpio.directory(folder);
  // The kernel opens it before init can mount devtmpfs.
  cpio.characterDevice('dev/console', 5, 1);
  cpio.characterDevice('dev/null', 1, 3, 0o666);
  cpio.file('init', inputs.read(join(guestsFolder, recipe.init)), 0o755);
  cpio.file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n');
  cpio.file('etc/group', 'root:x:0:\n');
  cpio.file('etc/hosts', '127.0.0.1 localhost\n');
  // Where busybox's acpid looks for what the power button does.
  cpio.file('etc/acpi/PWRF/00000080', '#!/bin/sh\nexec poweroff\n', 0o755);
  cpio.file('sbin/nodevmm-agent', inputs.read(agentBinary), 0o755);
  await addPrograms(cpio, recipe, inputs);
  await addBusybox(cpio, inputs);
  addModules(cpio, recipe, kernel);
  return cpio.bytes();
}

/** What writes the archive: its modules, or all bundles where only these are installed. */
function codeFiles(): string[] {
  const names = ['image', 'recipe', 'cpio', 'executables', 'kernel-modules'];
  const modules = names.map((name) => `dist/src/guest/${name}.js`);
  const compiled = modules.every((path) => existsSync(join(packageFolder, path)));
  return compiled ? modules : ['package.json', 'dist/bundle/bin'];
}

async function addPrograms(cpio: CpioArchive, recipe: Recipe, inputs: Inputs): Promise<void> {
  const programs = await requirePrograms(recipe.programs);
  for (const [name, path] of programs) {
    cpio.file(`bin/${name}`, inputs.read(path), 0o755);
    for (const library of await sharedLibraries(path)) {
      cpio.file(library.slice(1), inputs.read(library), 0o755);
    }
  }
  for (const path of recipe.files) cpio.file(path.slice(1), inputs.read(path));
}

async function addBusybox(cpio: CpioArchive, inputs: Inputs): Promise<void> {
  const busybox = await busyboxBinary();
  cpio.file('bin/busybox', inputs.read(busybox), 0o755);
  const applets = (await run([busybox, '--list-full'], 'reinstall busybox-static')).toString();
  for (const applet of applets.trim().split('\n')) {
    const taken = ['bin', 'sbin', 'usr/bin', 'usr/sbin'].some((at) =>
      cpio.has(`${at}/${basename(applet)}`),
    );
    if (!taken) cpio.symlink(applet, '/bin/busybox');
  }
}

function addModules(cpio: CpioArchive, recipe: Recipe, kernel: Kernel): void {
  const graph = moduleGraph(kernel.modules, recipe.modules);
  const paths = graph.closure(recipe.modules);
  const folder = `lib/modules/${kernel.version}`;
  for (const path of paths)
    cpio.file(`${folder}/${path}`, readFileSync(join(kernel.modules, path)));
  cpio.file(`${folder}/modules.dep`, graph.dep(paths));
  cpio.file(`${folder}/modules.alias`, graph.alias(paths));
}
