/** Programs that go into guests: the agent, and the host's, with the shared libraries that they load. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../host/errors.ts';
import { packageFolder } from '../host/package-folder.ts';
import { cacheFolder, publishFolder } from './cache.ts';
import { downloadPackage, unpackPackage } from './debian.ts';
import { findProgram, run } from './programs.ts';

/** The folder guests/ of the package. */
export const guestsFolder = join(packageFolder, 'guests');

/**
 * Finds programs; installs the packages of those that are missing when it may.
 * @param packages package by program
 * @throws UsageError that names every package that is missing
 */
export async function requirePrograms(
  packages: Readonly<Record<string, string>>,
): Promise<ReadonlyMap<string, string>> {
  const missing = (): string[] =>
    Object.keys(packages).filter((name) => findProgram(name) === undefined);
  const names = (): string[] => [...new Set(missing().map((name) => packages[name] as string))];
  if (missing().length > 0 && process.getuid?.() === 0) {
    const remedy = `apt-get install ${names().join(' ')}`;
    await run(['apt-get', 'update', '-q'], remedy);
    await run(['apt-get', 'install', '-q', '-y', '--no-install-recommends', ...names()], remedy);
  }
  if (missing().length > 0) {
    throw new UsageError(
      'E_PACKAGE',
      `${missing().join(', ')} not found on this host`,
      `apt-get install ${names().join(' ')}`,
    );
  }
  return new Map(Object.keys(packages).map((name) => [name, findProgram(name) as string]));
}

/** The shared libraries and loader of an executable, as absolute paths; none when it is static. */
export async function sharedLibraries(path: string): Promise<string[]> {
  if (isStatic(path)) return [];
  const out = (await run(['ldd', path], 'apt-get install libc-bin')).toString();
  const lost = /^\s*(\S+) => not found/m.exec(out);
  if (lost !== null) {
    throw new UsageError(
      'E_PACKAGE',
      `${path} needs ${lost[1]}, which is not installed`,
      'reinstall its package',
    );
  }
  return [...out.matchAll(/(?:=> |^\s*)(\/\S+) \(0x/gm)].map((match) => match[1] as string);
}

/** A static busybox: the host's own, or the one of the package busybox-static in the cache. */
export async function busyboxBinary(): Promise<string> {
  const own = findProgram('busybox');
  if (own !== undefined && isStatic(own)) return own;
  const folder = cacheFolder('busybox');
  if (!existsSync(folder)) {
    const deb = await downloadPackage('busybox-static');
    await publishFolder(folder, (into) => unpackPackage(deb, into));
  }
  const paths = ['bin/busybox', 'usr/bin/busybox'].map((path) => join(folder, path));
  const found = paths.find((path) => existsSync(path));
  if (found !== undefined) return found;
  throw new UsageError('E_PACKAGE', `no busybox in ${folder}`, 'delete it and try again');
}

const PT_INTERP = 3;

/** ELF-64 program header table: a dynamic executable names its loader. */
function isStatic(path: string): boolean {
  const elf = readFileSync(path);
  if (elf.length < 64 || elf.readUInt32BE(0) !== 0x7f454c46) return true;
  const table = Number(elf.readBigUInt64LE(0x20));
  const size = elf.readUInt16LE(0x36);
  for (let index = 0; index < elf.readUInt16LE(0x38); index += 1) {
    if (elf.readUInt32LE(table + index * size) === PT_INTERP) return false;
  }
  return true;
}

/** The guest agent's executable, static: set-up compiles it from guests/agent, the package brings it. */
export const agentBinary = join(packageFolder, 'build/Release/nodevmm-agent');
