/** Makes an initramfs from a recipe: the same inputs give the same bytes. */
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { agentBinary, guestsFolder } from './agent-binary.ts';
import { CpioArchive } from './cpio.ts';
import { busyboxBinary, requirePrograms, sharedLibraries } from './executables.ts';
import { type Kernel, moduleGraph } from './kernel.ts';
import type { Recipe } from './recipe.ts';
import { run } from './run.ts';

const emptyFolders = ['dev', 'proc', 'sys', 'tmp', 'run', 'mnt', 'root', 'var/log', 'etc'];

/** The initramfs as an uncompressed cpio archive, which a guest unpacks fastest. */
export async function buildInitramfs(recipe: Recipe, kernel: Kernel): Promise<Buffer> {
  const cpio = new CpioArchive();
  for (const folder of emptyFolders) cpio.directory(folder);
  // The kernel opens it before init can mount devtmpfs.
  cpio.characterDevice('dev/console', 5, 1);
  cpio.characterDevice('dev/null', 1, 3, 0o666);
  cpio.file('init', readFileSync(join(guestsFolder, recipe.init)), 0o755);
  cpio.file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n');
  cpio.file('etc/group', 'root:x:0:\n');
  cpio.file('etc/hosts', '127.0.0.1 localhost\n');
  cpio.file('sbin/nodevmm-agent', readFileSync(await agentBinary()), 0o755);
  await addPrograms(cpio, recipe);
  await addBusybox(cpio);
  addModules(cpio, recipe, kernel);
  return cpio.bytes();
}

async function addPrograms(cpio: CpioArchive, recipe: Recipe): Promise<void> {
  const programs = await requirePrograms(recipe.programs);
  for (const [name, path] of programs) {
    cpio.file(`usr/bin/${name}`, readFileSync(path), 0o755);
    for (const library of await sharedLibraries(path)) {
      cpio.file(library.slice(1), readFileSync(library), 0o755);
    }
  }
  for (const path of recipe.files) cpio.file(path.slice(1), readFileSync(path));
}

async function addBusybox(cpio: CpioArchive): Promise<void> {
  const busybox = await busyboxBinary();
  cpio.file('bin/busybox', readFileSync(busybox), 0o755);
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
