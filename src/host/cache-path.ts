/** Where things are cached (XDG Base Directory Specification). */
import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { ownFolder } from './private-folder.ts';

/** `$XDG_CACHE_HOME/nodevmm`, or the same below `~/.cache`; unchecked. */
export function cachePath(env: NodeJS.ProcessEnv = process.env): string {
  const base = env.XDG_CACHE_HOME ?? '';
  // XDG Base Directory Specification: relative paths are invalid and to be ignored.
  return join(isAbsolute(base) ? base : join(homedir(), '.cache'), 'nodevmm');
}

/**
 * Checks a folder whose contents are booted, or run: it has to be this user's own, and no other may
 * write to it. Missing is fine.
 * @returns its path, without symbolic links
 * @throws UsageError
 */
export function checkedCache(folder: string): string {
  return ownFolder(folder, {
    code: 'E_CACHE',
    name: 'the cache folder',
    remedy: 'set XDG_CACHE_HOME, or HOME as "sudo -H" does, to a folder of your own',
  });
}
