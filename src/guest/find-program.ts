/** Where the host's programs are. */
import { accessSync, constants } from 'node:fs';
import { delimiter, isAbsolute, join } from 'node:path';

const SEARCH = [
  ...(process.env.PATH ?? '').split(delimiter),
  '/usr/local/sbin',
  '/usr/sbin',
  '/sbin',
  '/usr/bin',
  '/bin',
  // Where daemons are that people do not start by name.
  '/usr/libexec',
  '/usr/lib/qemu',
];

/**
 * A program on the host's PATH or in its system folders.
 * @param folders where to look instead
 */
export function findProgram(name: string, folders: readonly string[] = SEARCH): string | undefined {
  for (const folder of folders) {
    // A relative one means whatever folder we are in, which may be anybody's.
    if (!isAbsolute(folder)) continue;
    try {
      const path = join(folder, name);
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}
