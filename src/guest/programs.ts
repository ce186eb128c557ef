/** Programs of the host: finds them, and runs the distribution's own tools. */
import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, isAbsolute, join } from 'node:path';
import { UsageError } from '../host/errors.ts';

/**
 * Runs a program to its end.
 * @param remedy what the user can do when it is missing or fails
 * @param options `detached`: the terminal's Ctrl-C is not for it
 * @returns its standard output
 * @throws UsageError when it is missing or fails, with the last line of its standard error
 */
export function run(
  argv: readonly [string, ...string[]],
  remedy: string,
  options: { readonly cwd?: string; readonly detached?: boolean } = {},
): Promise<Buffer> {
  const [program, ...args] = argv;
  return new Promise((resolve, reject) => {
    const env = { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' };
    const child = spawn(findProgram(program) ?? program, args, {
      ...options,
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
    child.on('error', (cause: NodeJS.ErrnoException) => {
      const why = cause.code === 'ENOENT' ? 'it is not installed' : cause.message;
      reject(new UsageError('E_TOOL', `cannot run ${program}: ${why}`, remedy, { cause }));
    });
    child.on('close', (code, signal) => {
      if (code === 0) {
        resolve(Buffer.concat(out));
        return;
      }
      const last = Buffer.concat(err).toString().trim().split('\n').slice(0, 3).join('; ');
      const how = signal ?? `status ${code}`;
      reject(
        new UsageError('E_TOOL', `${program} ${args[0] ?? ''} failed (${how}): ${last}`, remedy),
      );
    });
  });
}

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
