/** Where sockets of this user's own lie (XDG Base Directory Specification). */
import { tmpdir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { closedFolder } from './private-folder.ts';

/** A folder that only this user can enter; made when it is missing. @throws UsageError */
export function runtimeFolder(): string {
  const runtime = process.env.XDG_RUNTIME_DIR ?? '';
  // XDG Base Directory Specification: relative paths are invalid and to be ignored.
  const folder = isAbsolute(runtime)
    ? join(runtime, 'nodevmm')
    : join(tmpdir(), `nodevmm-${process.geteuid?.() ?? 0}`);
  return closedFolder(folder, {
    code: 'E_RUNTIME',
    name: 'the folder for sockets',
    remedy: 'set XDG_RUNTIME_DIR to a folder of your own',
  });
}
