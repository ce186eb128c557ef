/**
 * Removes a folder with all that is in it, by descriptors: nobody who exchanges a name for another
 * or for a symbolic link meanwhile makes it remove anything elsewhere. It stays within one mount.
 */
import {
  closeSync,
  constants,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  unlinkSync,
} from 'node:fs';

/**
 * @param parent descriptor of the folder that it is in
 * @param name may be that of a file, or of nothing
 * @throws a system error when something cannot be removed, e.g. a mount point
 */
export function removeTree(parent: number, name: string | Buffer): void {
  const path = within(parent, name);
  const fd = openFolder(path);
  if (fd === undefined) {
    unlinkSync(path);
    return;
  }
  if (fd < 0) return;
  try {
    if (mountOf(fd) === mountOf(parent)) {
      for (const child of readdirSync(within(fd, '.'), { encoding: 'buffer' })) {
        removeTree(fd, child);
      }
    }
  } finally {
    closeSync(fd);
  }
  rmdirSync(path);
}

/** What a name in an open folder is for calls that take a path (proc(5), /proc/PID/fd). */
export function within(folder: number, name: string | Buffer): Buffer {
  return Buffer.concat([Buffer.from(`/proc/self/fd/${folder}/`), Buffer.from(name)]);
}

/** @returns undefined for what is no folder, -1 for nothing */
function openFolder(path: Buffer): number | undefined {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return -1;
    if (code === 'ENOTDIR' || code === 'ELOOP') return undefined;
    throw error;
  }
}

/** A bind mount of the same file system has the same device, but not the same mount. */
function mountOf(fd: number): string | undefined {
  return /^mnt_id:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1];
}
