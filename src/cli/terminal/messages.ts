/** nodevmm's messages to the user on standard error: the only place where such lines are written. */
import type { Writable } from 'node:stream';
import { CommanderError } from 'commander';
import { HostError, InternalError, messageOf, NodeVmmError, PeerError } from '../../host/errors.ts';
import { systemError } from '../../host/output-file.ts';
import { printable } from '../../host/untrusted-text.ts';
import { EXIT_BUG, EXIT_COMMAND_LOST, EXIT_COMMAND_STOPPED, EXIT_USAGE } from '../exit-status.ts';

/** Bytes that may wait for a reader; further ones are only counted. */
const UNREAD_MAX = 256 * 1024;

/** Lines on a stream. Guests and peers influence many of them: none may control the terminal. */
export class Messages {
  readonly #stream: Writable;
  readonly #isRaw: () => boolean;
  #dropped = 0;

  /** @param isRaw whether the stream is a terminal in raw mode, which needs carriage returns */
  constructor(stream: Writable, isRaw: () => boolean = () => false) {
    this.#stream = stream;
    this.#isRaw = isRaw;
  }

  /** Prints a message, which may have several lines. */
  say(text: string): void {
    this.show(`nodevmm: ${text}`);
  }

  /** Prints lines unchanged, except for control characters. */
  show(text: string): void {
    if (this.#stream.writableLength > UNREAD_MAX) {
      this.#dropped++;
      return;
    }
    const dropped = this.#dropped;
    this.#dropped = 0;
    if (dropped > 0) this.#write(`nodevmm: ${dropped} unread messages were dropped`);
    this.#write(text);
  }

  #write(text: string): void {
    const end = this.#isRaw() ? '\r\n' : '\n';
    this.#stream.write(`${printable(text).replaceAll('\n', end)}${end}`);
  }
}

/** This process's messages. */
export const MESSAGES: Messages = new Messages(process.stderr, () => process.stdin.isRaw === true);

const debugging = (): boolean => process.env.NODEVMM_DEBUG === '1';

/**
 * Prints an error on stderr, with a stack trace only when NODEVMM_DEBUG=1.
 * @returns the exit status
 */
export function reportError(error: unknown): number {
  // commander has printed its own line, for --help and --version too.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE;
  const known =
    error instanceof NodeVmmError
      ? error
      : (systemError(error) ?? new InternalError(messageOf(error), { cause: error }));
  const text = known.message.replace(/\s*\n\s*/g, ' ');
  MESSAGES.say(text);
  if (debugging()) MESSAGES.show(stackOf(error));
  if (known instanceof InternalError) return EXIT_BUG;
  if (known.code === 'E_LAB_STOPPED') return EXIT_COMMAND_STOPPED;
  return known instanceof PeerError && !(known instanceof HostError)
    ? EXIT_COMMAND_LOST
    : EXIT_USAGE;
}

function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return '';
  const cause = error.cause === undefined ? '' : `\ncaused by: ${stackOf(error.cause)}`;
  return `${error.stack ?? ''}${cause}`;
}
