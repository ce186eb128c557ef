/** Folders and links of sysfs, any of which may be missing, or go meanwhile. */
import { readdirSync, readlinkSync } from 'node:fs';
import { basename } from 'node:path';

/** What is in a folder; nothing when it is missing. */
export function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** The last part of what a symbolic link names; undefined when there is none. */
export function linkName(path: string): string | undefined {
  try {
    return basename(readlinkSync(path));
  } catch {
    return undefined;
  }
}
