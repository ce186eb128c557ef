/**
 * Output of a guest that never waits for its reader. Linux's hvc driver and its early serial console
 * spin, mostly with interrupts off, until a byte is taken: blocked by a reader that stopped, they
 * would hang the guest. Unread output is kept up to a limit. Beyond it output is dropped and
 * counted, and a line in the stream reports how much is missing there.
 */
import { Buffer } from 'node:buffer';
import type { Readable } from 'node:stream';

/** Bytes that are kept in addition to the stream's own buffer. */
export const UNREAD_MAX: number = 1024 * 1024;
/** Bytes that are pushed at a time. */
const PIECE = 0x10000;

/** Replaces dropped output. */
export function dropNotice(bytes: number): string {
  return `\r\n[${bytes} bytes of console output dropped]\r\n`;
}

/** Sits between a guest and the stream that its output is read from. */
export class UnreadOutput {
  readonly #stream: Readable;
  readonly #dropping: () => void;
  #dropped = 0;
  /** A ring, allocated when the stream is first full and freed when all was read. */
  #ring: Buffer | undefined;
  #head = 0;
  #length = 0;
  /** Bytes dropped after what the ring holds. */
  #gap = 0;
  /** The stream is full at present. */
  #full = false;

  /**
   * @param stream whose `_read` calls `flow`
   * @param dropping called when the first byte is dropped, and never again
   */
  constructor(stream: Readable, dropping: () => void) {
    this.#stream = stream;
    this.#dropping = dropping;
  }

  /** How many bytes were dropped so far. */
  get dropped(): number {
    return this.#dropped;
  }

  /** The guest printed something. */
  add(bytes: Uint8Array): void {
    // A destroyed stream will never be read.
    if (this.#stream.destroyed || bytes.length === 0) return;
    if (!this.#full && this.#length === 0 && this.#gap === 0) {
      this.#full = !this.#stream.push(bytes);
      return;
    }
    // A gap continues until ending it is worthwhile, or the notices would outnumber the output.
    if (this.#gap > 0 && this.#length <= UNREAD_MAX / 2) this.#keep(this.#takeNotice());
    const room = this.#gap > 0 ? 0 : UNREAD_MAX - this.#length;
    if (room > 0) this.#keep(bytes.subarray(0, room));
    if (bytes.length > room) this.#drop(bytes.length - room);
  }

  /** The reader is ready for more. */
  flow(): void {
    if (!this.#full) return;
    this.#full = false;
    while (!this.#full && this.#length > 0) this.#full = !this.#stream.push(this.#takePiece());
    if (!this.#full && this.#gap > 0) this.#full = !this.#stream.push(this.#takeNotice());
  }

  #drop(bytes: number): void {
    const first = this.#dropped === 0;
    this.#gap += bytes;
    this.#dropped += bytes;
    if (first) this.#dropping();
  }

  #takeNotice(): Buffer {
    const notice = Buffer.from(dropNotice(this.#gap));
    this.#gap = 0;
    return notice;
  }

  /** Puts bytes that fit at the end of the ring. */
  #keep(bytes: Uint8Array): void {
    this.#ring ??= Buffer.allocUnsafeSlow(UNREAD_MAX);
    const tail = (this.#head + this.#length) % UNREAD_MAX;
    const first = bytes.subarray(0, UNREAD_MAX - tail);
    this.#ring.set(first, tail);
    this.#ring.set(bytes.subarray(first.length), 0);
    this.#length += bytes.length;
  }

  #takePiece(): Buffer {
    const end = Math.min(this.#head + Math.min(this.#length, PIECE), UNREAD_MAX);
    const piece = Buffer.from(this.#ring?.subarray(this.#head, end) ?? []);
    this.#head = end % UNREAD_MAX;
    this.#length -= piece.length;
    if (this.#length === 0) this.#ring = undefined;
    return piece;
  }
}
