/** What nodevmm says to the person on standard error: the one place where such lines are written. */
import type { Writable } from 'node:stream';
import { printable } from '../../host/untrusted-text.ts';

/** Bytes that may wait for a reader; what comes then is counted only. */
const UNREAD_MAX = 256 * 1024;

/** Lines on a stream. Guests and peers have a part in many of them: none gets at the terminal. */
export class Messages {
  readonly #stream: Writable;
  readonly #isRaw: () => boolean;
  #dropped = 0;

  /** @param isRaw whether the stream is a terminal that does not return the carriage by itself */
  constructor(stream: Writable, isRaw: () => boolean = () => false) {
    this.#stream = stream;
    this.#isRaw = isRaw;
  }

  /** Says something, which may have several lines. */
  say(text: string): void {
    this.show(`nodevmm: ${text}`);
  }

  /** Shows lines as they are, but for what a terminal would obey. */
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

/** Those of this process. */
export const MESSAGES: Messages = new Messages(process.stderr, () => process.stdin.isRaw === true);
