/** Errors by who must act on them. Each has a stable code and one line: what, why, what to do. */
import { packageFolder } from './package-folder.ts';

/** Base of all errors that nodevmm throws on purpose. */
export class NodeVmmError extends Error {
  /** Stable identifier, `E_*` or the errno's name. */
  readonly code: string;
  /** What to do, as at the end of the message; undefined when there is nothing to add to `problem`. */
  readonly remedy: string | undefined;

  /** @param problem what failed, and why; the message adds the remedy */
  constructor(code: string, problem: string, remedy?: string, options?: ErrorOptions) {
    super(remedy === undefined ? problem : `${problem}; ${remedy}`, options);
    this.code = code;
    this.remedy = remedy;
    this.name = new.target.name;
  }

  /** The message without the remedy. */
  get problem(): string {
    const { message, remedy } = this;
    return remedy === undefined ? message : message.slice(0, -`; ${remedy}`.length);
  }
}

/** The caller requested something impossible: the CLI exits with status 2. */
export class UsageError extends NodeVmmError {}

/** The host refused a system call. */
export class HostError extends NodeVmmError {
  /** The system call or ioctl that failed, e.g. `KVM_CREATE_VM`. */
  readonly call: string;
  /** What it was applied to, e.g. a path. */
  readonly object: string;
  /** Positive errno. */
  readonly errno: number;

  constructor(
    call: string,
    object: string,
    errno: number,
    code: string,
    text: string,
    remedy?: string,
  ) {
    super(code, `${call} on ${object} failed: ${text} (${code})`, remedy);
    this.call = call;
    this.object = object;
    this.errno = errno;
  }
}

/** A guest, or a process at the other end of a socket, broke the rules; its device stops. */
export class PeerError extends NodeVmmError {}

/** A bug in nodevmm itself. */
export class InternalError extends NodeVmmError {
  constructor(problem: string, options?: ErrorOptions) {
    super('E_INTERNAL', problem, 'this is a bug in nodevmm, please report it', options);
  }
}

/** Why something failed, and what to do about it. */
export type Reason = readonly [why: string, remedy?: string | undefined];

/** The two parts of a caught value's message, for an error that says more about where it arose. */
export function messageParts(error: unknown): Reason {
  return error instanceof NodeVmmError ? [error.problem, error.remedy] : [messageOf(error)];
}

/** The message of a caught value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

const OWN = ['dist/', 'src/', 'node_modules/'].map((folder) => `${packageFolder}/${folder}`);

/**
 * One line for a caught value: its message and the file and line that it comes from. Where code
 * that a user wrote called into ours, that is the user's line.
 */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const frames = [...(error.stack ?? '').matchAll(/^\s+at (?:.*\()?(.*:\d+):\d+\)?$/gm)];
  const places = frames
    .map(([, place = '']) => place.replace(/^file:\/\//, ''))
    .filter((place) => !place.startsWith('node:'));
  const place = places.find((one) => !OWN.some((own) => one.startsWith(own))) ?? places[0];
  const text = `${error.name}: ${error.message}`.split('\n', 1)[0] as string;
  return place === undefined ? text : `${text} (${place})`;
}
