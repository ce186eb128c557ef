/**
 * The machine's register files live in one SharedArrayBuffer, so that whichever vCPU thread exits
 * on a register reads or writes it in place. Every thread builds the same objects over it in the
 * same order: what one thread writes in a region, the others read in the same region.
 */
import { InternalError } from '../host/errors.ts';
import { RegisterLock } from './register-lock.ts';

const ALIGNMENT = 64;

/** Hands out the regions of the state buffer, in order. One allocator for each thread. */
export class SharedState {
  readonly buffer: SharedArrayBuffer;
  /** The one lock of all registers. */
  readonly lock: RegisterLock;
  #next = 0;

  /** @param buffer made once by `SharedState.allocate`, zero at first, the same in every thread */
  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
    this.lock = new RegisterLock(this.words(1));
  }

  /** A new buffer of `bytes` bytes. */
  static allocate(bytes: number): SharedArrayBuffer {
    return new SharedArrayBuffer(bytes);
  }

  /** The next region, as `count` 32-bit words. */
  words(count: number): Int32Array<SharedArrayBuffer> {
    return new Int32Array(this.buffer, this.#take(count * 4), count);
  }

  /** The next region, as bytes. */
  bytes(length: number): Uint8Array<SharedArrayBuffer> {
    return new Uint8Array(this.buffer, this.#take(length), length);
  }

  #take(length: number): number {
    const at = this.#next;
    this.#next = Math.ceil((at + length) / ALIGNMENT) * ALIGNMENT;
    if (at + length > this.buffer.byteLength) throw new InternalError('state buffer exhausted');
    return at;
  }
}
