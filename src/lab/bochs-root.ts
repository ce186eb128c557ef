/** The files of the lab's Intel machine: it sees none of the host's, so what commands need is copied. */
import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cacheFolder } from '../guest/cache.ts';
import { CpioArchive } from '../guest/cpio.ts';
import { sharedLibraries } from '../guest/executables.ts';
import { frozenStamp, type Guest } from '../guest/guests.ts';
import { packageFolder } from '../host/package-folder.ts';

/** What runs of the package, below its folder; an installed one has only the bundles. */
const PACKAGE = [
  'package.json',
  'src/packages.json',
  'dist/bundle',
  'dist/src',
  'build/Release/nodevmm.node',
  'build/Release/nodevmm-agent',
  'guests',
];
/** Nothing that runs: source maps, types. */
const LEFT_OUT = /\.(map|d\.ts)$/;

/**
 * An archive of node, the package, a guest and folders of one's own, all under their host's paths.
 * @param vmlinux the guest's kernel, unpacked, which takes the packed one's place
 * @param shares folders, absolute or from here
 */
export async function rootArchive(
  guest: Guest,
  vmlinux: Uint8Array,
  shares: readonly string[],
): Promise<Buffer> {
  const cpio = new CpioArchive();
  await addNode(cpio);
  for (const path of PACKAGE.map((name) => join(packageFolder, name)).filter(existsSync)) {
    addTree(cpio, path);
  }
  for (const folder of koffiFolders()) addTree(cpio, folder);
  cpio.symlink('usr/bin/nodevmm', join(packageFolder, 'dist/bundle/bin/main.js'));
  const main = readFileSync(join(packageFolder, 'dist/bundle/bin/main.js'));
  cpio.file(inRoot(join(packageFolder, 'dist/bundle/bin/main.js')), main, 0o755);
  addGuest(cpio, guest, vmlinux);
  for (const share of shares) addTree(cpio, resolve(share));
  // Where commands start.
  if (!cpio.has(inRoot(process.cwd())) && process.cwd() !== '/') {
    cpio.directory(inRoot(process.cwd()));
  }
  return cpio.bytes();
}

const inRoot = (path: string): string => path.slice(1);

async function addNode(cpio: CpioArchive): Promise<void> {
  const node = process.execPath;
  cpio.file(inRoot(node), readFileSync(node), 0o755);
  for (const library of await sharedLibraries(node)) {
    cpio.file(inRoot(library), readFileSync(library), 0o755);
  }
  if (node !== '/usr/bin/node') cpio.symlink('usr/bin/node', node);
}

/** The package with the native module is koffi's neighbor, wherever npm has put the two. */
function koffiFolders(): string[] {
  const koffi = dirname(fileURLToPath(import.meta.resolve('koffi')));
  return [koffi, join(dirname(koffi), '@koromix/koffi-linux-x64')];
}

/** The image, and what makes nodevmm find it: what it was made from is not there to look at. */
function addGuest(cpio: CpioArchive, guest: Guest, vmlinux: Uint8Array): void {
  const folder = dirname(guest.kernel);
  cpio.file(inRoot(guest.kernel), vmlinux);
  cpio.file(inRoot(guest.initrd), readFileSync(guest.initrd));
  cpio.file(inRoot(join(folder, 'manifest.json')), readFileSync(join(folder, 'manifest.json')));
  const stamp = frozenStamp(guest);
  cpio.file(inRoot(stamp.path), stamp.text);
  cpio.directory(inRoot(join(cacheFolder(), 'kernels', guest.kernelVersion)));
}

function addTree(cpio: CpioArchive, path: string): void {
  const stat = lstatSync(path);
  if (stat.isDirectory()) {
    cpio.directory(inRoot(path));
    for (const name of readdirSync(path)) addTree(cpio, join(path, name));
  } else if (stat.isSymbolicLink()) {
    cpio.symlink(inRoot(path), readlinkSync(path));
  } else if (stat.isFile() && !LEFT_OUT.test(basename(path))) {
    cpio.file(inRoot(path), readFileSync(path), stat.mode & 0o777);
  }
}
