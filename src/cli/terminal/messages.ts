/** nodevmm's messages to the user on standard error: the only place where such lines are written. */
import type { Writable } from 'node:stream';
import { printable } from '../../host/untrusted-text.ts';

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
