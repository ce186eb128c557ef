/** What kernel modules are compiled against: the header packages of a guest's kernel, in the cache. */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, UsageError } from '../host/errors.ts';
import { cacheFolder, publishFolder } from './cache.ts';
import { downloadPackage, packageDependencies, unpackPackage } from './debian.ts';
import type { Progress } from './kernel.ts';

/**
 * Fetches and unpacks the headers of a kernel, once.
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
      `no headers found for the guest's kernel ${version}: ${messageOf(cause)}; if the archive has only newer ones, remove ${cacheFolder('kernels', version)} and build again`,
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
