/** Where sockets of this user's own lie (XDG Base Directory Specification). */
import { chmodSync, mkdirSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UsageError } from './errors.ts';

/** A folder that only this user can enter; made when it is missing. @throws UsageError */
export function runtimeFolder(): string {
  const uid = process.getuid?.() ?? 0;
  const runtime = process.env.XDG_RUNTIME_DIR;
  const folder = runtime ? join(runtime, 'nodevmm') : join(tmpdir(), `nodevmm-${uid}`);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new UsageError(
      'E_RUNTIME',
      `cannot make ${folder}: ${code}; set XDG_RUNTIME_DIR to a folder of your own`,
      { cause: error },
    );
  }
  if (statSync(folder).uid !== uid) {
    throw new UsageError('E_RUNTIME', `${folder} belongs to another user; set XDG_RUNTIME_DIR`);
  }
  chmodSync(folder, 0o700);
  return folder;
}
