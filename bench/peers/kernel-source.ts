/** Sources of Debian's kernel, for what Debian compiles into none of its kernels. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { cacheFolder, contentHash, publishFolder } from '../../src/guest/cache.ts';
import { downloadPackage } from '../../src/guest/debian.ts';
import { run } from '../../src/guest/programs.ts';

/** Streams the tree out of the package: it is 1.5 GB unpacked. Arguments: package, its name, folder, paths. */
const UNPACK = `
deb=$1 name=$2 into=$3; shift 3
dpkg-deb --fsys-tarfile "$deb" | tar -xO "./usr/src/$name.tar.xz" | tar -xJ -C "$into" --strip-components=1 "$@"`;

/**
 * A flat folder for `buildModules`, with files of the kernel's source tree in it. They include each other by
 * their names alone.
 * @param version of the kernel that they are for, as in `uname -r`
 * @param paths of files in the source tree, and folders of which all .c and .h files are taken
 * @param own the Kbuild, and other files, by name
 * @returns the folder, in the cache
 */
export async function kernelSources(
  version: string,
  paths: readonly string[],
  own: Readonly<Record<string, string>>,
): Promise<string> {
  const series = /^\d+\.\d+/.exec(version)?.[0] ?? version;
  const name = `linux-source-${series}`;
  const deb = await downloadPackage(name);
  const hash = contentHash([basename(deb), ...paths, ...Object.entries(own).flat()]);
  const target = cacheFolder('sources', hash.slice(0, 16));
  if (existsSync(target)) return target;
  await publishFolder(target, async (into) => {
    const tree = join(into, 'tree');
    mkdirSync(tree);
    const wanted = paths.map((path) => `${name}/${path}`);
    await run(['sh', '-ec', UNPACK, 'sh', deb, name, tree, ...wanted], 'apt-get install xz-utils');
    for (const file of paths.flatMap((path) => filesAt(tree, path))) {
      const text = readFileSync(join(tree, file), 'utf8');
      writeFileSync(join(into, basename(file)), text.replace(/^(#include ")(?:\.\.\/)+/gm, '$1'));
    }
    rmSync(tree, { recursive: true });
    for (const [file, text] of Object.entries(own)) writeFileSync(join(into, file), text);
  });
  return target;
}

function filesAt(tree: string, path: string): string[] {
  if (/\.[ch]$/.test(path)) return [path];
  const names = readdirSync(join(tree, path)).filter((name) => /\.[ch]$/.test(name));
  return names.map((name) => join(path, name));
}
