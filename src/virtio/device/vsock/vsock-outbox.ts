/**
 * Bytes on their way to a stream of the host. While one write is in progress, further bytes are
 * collected for the next, so that a guest that sends single bytes costs no more memory than one
 * that sends its whole credit at once.
 */
import { Buffer } from 'node:buffer';
import type { Writable } from 'node:stream';

/** The minimum allocation. */
const FIRST_ROOM = 4096;

/** See the file. */
export class VsockOutbox {
  readonly #stream: Writable;
  readonly #limit: number;
  readonly #taken: (bytes: number) => void;
  #staged: Buffer = Buffer.alloc(0);
  #length = 0;
  #writing = false;
  #ended = false;

  /**
   * @param limit the most bytes that will ever wait
   * @param taken called with the number of bytes that the stream took
   */
  constructor(stream: Writable, limit: number, taken: (bytes: number) => void) {
    this.#stream = stream;
    this.#limit = limit;
    this.#taken = taken;
  }

  /**
   * Adds bytes.
   * @param fill copies all of them to its argument
   */
  add(length: number, fill: (into: Uint8Array) => void): void {
    const end = this.#length + length;
    if (end > this.#staged.length) {
      const room = this.#writing ? Math.max(FIRST_ROOM, end * 2) : end;
      const staged = Buffer.alloc(Math.max(end, Math.min(room, this.#limit)));
      staged.set(this.#staged.subarray(0, this.#length));
      this.#staged = staged;
    }
    fill(this.#staged.subarray(this.#length, end));
    this.#length = end;
    this.#write();
  }

  /** Ends the stream after everything that was added. @param done called when the stream took it, or broke */
  end(done: () => void = () => {}): void {
    if (this.#stream.writableFinished || this.#stream.destroyed) done();
    else this.#stream.once('finish', done);
    this.#ended = true;
    this.#write();
  }

  #write(): void {
    if (this.#writing) return;
    if (this.#length === 0) {
      if (this.#ended && !this.#stream.writableEnded) this.#stream.end();
      return;
    }
    const bytes = this.#staged.subarray(0, this.#length);
    this.#staged = Buffer.alloc(0);
    this.#length = 0;
    this.#writing = true;
    this.#stream.write(bytes, (error) => {
      this.#writing = false;
      // A broken stream is not written to again: it reports its own error.
      if (error) return;
      this.#taken(bytes.length);
      this.#write();
    });
  }
}
