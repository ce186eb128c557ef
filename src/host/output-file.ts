/**
 * Files that the user asks for. They can hold what a guest printed or did, so a new one is
 * its owner's alone (0600), and none is reached through a symbolic link, which another user of the
 * host may have put there.
 */
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { getSystemErrorMap } from 'node:util';
import { HostError, type Reason, UsageError } from './errors.ts';

const { O_WRONLY, O_CREAT, O_TRUNC, O_APPEND, O_NOFOLLOW, O_NOCTTY, O_NONBLOCK } = constants;
/** Links to what this process was started with, which no one else can change. */
const OWN_DESCRIPTOR = /^\/(dev\/(stdout|stderr|fd\/\d+)|proc\/self\/fd\/\d+)$/;

const REASONS: Readonly<Record<string, Reason>> = {
  ELOOP: ['it is a symbolic link', 'use the file it points to'],
  ENXIO: ['it is a FIFO without a reader, or a missing device', 'start the reader first'],
  ENOENT: ['no such folder', 'create it'],
  EISDIR: ['it is a folder', 'use a file in it'],
};

/**
 * Opens a file to write, and makes it where there is none. It does not block: a FIFO that is full
 * gives EAGAIN.
 * @param what is written to it, for the message: `the console`
 * @param code of the error
 * @param append append to the file instead of replacing it
 * @returns its descriptor, the caller's to close
 * @throws UsageError when that cannot be
 */
export function openOutputFile(what: string, path: string, code: string, append = false): number {
  const flags = O_WRONLY | O_CREAT | O_NOCTTY | O_NONBLOCK | (append ? O_APPEND : O_TRUNC);
  try {
    return openSync(path, OWN_DESCRIPTOR.test(path) ? flags : flags | O_NOFOLLOW, 0o600);
  } catch (error) {
    const name = (error as NodeJS.ErrnoException).code ?? '';
    const [why, remedy] = REASONS[name] ?? [reasonOf(error), 'use a file that can be created'];
    const problem = `cannot write ${what} to ${path}: ${why}`;
    throw new UsageError(code, problem, remedy, { cause: error });
  }
}

/** Writes all of a text, or throws the system's error. */
export function writeFully(fd: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
}

/**
 * Writes a file in one go.
 * @throws UsageError when it cannot be made, HostError when it cannot be written, e.g. on a full disk
 */
export function writeOutputFile(what: string, path: string, code: string, text: string): void {
  const fd = openOutputFile(what, path, code);
  try {
    writeFully(fd, text);
  } catch (error) {
    throw systemError(error, path) ?? error;
  } finally {
    closeSync(fd);
  }
}

/** The system's message for a failed call: `no space left on device (ENOSPC)`. */
export function reasonOf(error: unknown): string {
  if (!isSystemError(error)) return error instanceof Error ? error.message : String(error);
  const [, text] = getSystemErrorMap().get(error.errno) ?? [];
  return text === undefined ? error.message : `${text} (${error.code})`;
}

interface SystemError extends Error {
  readonly code: string;
  /** Negative. */
  readonly errno: number;
  readonly syscall: string;
  readonly path?: string;
}

function isSystemError(error: unknown): error is SystemError {
  return error instanceof Error && 'syscall' in error && 'errno' in error && 'code' in error;
}

/** Only a wrong call is answered so. */
const OWN_FAULT: readonly string[] = ['EBADF', 'EFAULT'];

/**
 * An error of Node's own modules as one of the host's.
 * @param object what the call was about, if the error lacks it
 * @returns undefined when it is none, or can only come from a bug
 */
export function systemError(error: unknown, object?: string): HostError | undefined {
  if (!isSystemError(error) || OWN_FAULT.includes(error.code)) return undefined;
  const { syscall, errno, code, path = object ?? 'a file or a socket' } = error;
  const [, text = error.message] = getSystemErrorMap().get(errno) ?? [];
  return new HostError(syscall, path, Math.abs(errno), code, text);
}
