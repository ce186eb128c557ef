/** Debian packages by the distribution's own client: looked up, downloaded, unpacked, never installed. */
import { readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../host/errors.ts';
import { cacheFolder, makeFolder } from './cache.ts';
import { run } from './programs.ts';

const NO_APT =
  'guests are built from Debian packages: use a host with apt, or pass --kernel and --initrd';

let updated: Promise<unknown> | undefined;

/** The package lists of a fresh container are empty; only root may fetch them. */
async function updateLists(): Promise<void> {
  if (process.getuid?.() !== 0) return;
  updated ??= run(['apt-get', 'update', '-q'], 'check the network and /etc/apt/sources.list');
  await updated;
}

/** Compares by runs of digits: 6.12.9 comes before 6.12.48. */
export function compareVersions(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}

/**
 * The newest package of those that are wanted.
 * @param prefix what its name begins with
 * @throws UsageError when there is none
 */
export async function newestPackage(
  prefix: string,
  wanted: (name: string) => boolean,
): Promise<string> {
  const look = async (): Promise<string | undefined> => {
    const out = await run(['apt-cache', 'pkgnames', prefix], NO_APT);
    return out.toString().split('\n').filter(wanted).sort(compareVersions).at(-1);
  };
  let found = await look();
  if (found === undefined) {
    await updateLists();
    found = await look();
  }
  if (found !== undefined) return found;
  throw new UsageError(
    'E_PACKAGE',
    `no package ${prefix}* is known to apt`,
    "run apt-get update as root, or add the release's security and updates sources",
  );
}

/**
 * Downloads a package into the cache, once.
 * @returns path of the .deb
 * @throws UsageError when apt cannot get it
 */
export async function downloadPackage(name: string): Promise<string> {
  const folder = cacheFolder('deb');
  makeFolder(folder);
  const find = (at: string): string | undefined =>
    readdirSync(at)
      .filter((file) => file.startsWith(`${name}_`))
      .sort(compareVersions)
      .at(-1);
  const cached = find(folder);
  if (cached !== undefined) return join(folder, cached);
  const partial = join(folder, `partial-${process.pid}-${name}`);
  makeFolder(partial);
  try {
    const download = () =>
      run(
        ['apt-get', 'download', '-q', '-o', 'APT::Sandbox::User=root', name],
        'check the network, then apt-get update',
        {
          cwd: partial,
        },
      );
    try {
      await download();
    } catch {
      // Lists older than the mirror name versions that are gone.
      await updateLists();
      await download();
    }
    const file = find(partial);
    if (file === undefined)
      throw new UsageError(
        'E_PACKAGE',
        `apt-get download did not fetch ${name}`,
        'run apt-get update',
      );
    renameSync(join(partial, file), join(folder, file));
    return join(folder, file);
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}

/** Unpacks a .deb's files below a folder. */
export async function unpackPackage(deb: string, folder: string): Promise<void> {
  await run(['dpkg-deb', '--extract', deb, folder], `delete ${deb} and try again`);
}

/** The names of the packages that a .deb depends on, alternatives included. */
export async function packageDependencies(deb: string): Promise<string[]> {
  const field = await run(['dpkg-deb', '--field', deb, 'Depends'], `delete ${deb} and try again`);
  const names = field.toString().split(/[,|]/);
  return names.map((name) => name.trim().replace(/[\s(:].*$/s, '')).filter((name) => name !== '');
}
