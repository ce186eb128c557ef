/**
 * Bytes on their way to a stream of the host. While one write is under way all that comes is
 * collected for the next, so that a guest that sends single bytes costs no more memory than one
 * that sends all it may at once.
 */
import { Buffer } from 'node:buffer';
import type { Writable } from 'node:stream';

/** The least that is made room for. */
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
   * @param taken hears how many bytes the stream took
   */
  constructor(stream: Writable, limit: number, taken: (bytes: number) => void) {
    this.#stream = stream;
    this.#limit = limit;
    this.#taken = taken;
  }

  /**
   * Adds bytes.
   * @param fill puts all of them where it is told
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

  /** Ends the stream after all that was added. @param done called when the stream took it, or broke */
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
      // A stream that broke is not written to again: it says so by itself.
      if (error) return;
      this.#taken(bytes.length);
      this.#write();
    });
  }
}
