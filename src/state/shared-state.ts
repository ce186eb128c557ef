/**
 * The machine's register files live in one SharedArrayBuffer, so that whichever vCPU thread exits
 * on a register reads or writes it in place. Every thread builds the same objects over it in the
 * same order: what one thread writes in a region, the others read in the same region.
 */
import { InternalError } from '../host/errors.ts';

const ALIGNMENT = 64;

/** A region, in which what comes and goes lies by itself: zero whenever something comes. */
export interface StatePart {
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  /** Of all registers. */
  readonly lock: RegisterLock;
}

/** Hands out the regions of the state buffer, in order. One allocator for each thread. */
export class SharedState {
  readonly buffer: SharedArrayBuffer;
  /** The one lock of all registers. */
  readonly lock: RegisterLock;
  readonly #end: number;
  #next: number;

  /**
   * @param buffer made once by `SharedState.allocate`, zero at first, the same in every thread
   * @param part a region that is handed out on its own; absent: the whole buffer
   */
  constructor(buffer: SharedArrayBuffer, part?: StatePart) {
    this.buffer = buffer;
    this.#next = part?.bytes.byteOffset ?? 0;
    this.#end = part === undefined ? buffer.byteLength : this.#next + part.bytes.length;
    this.lock = part?.lock ?? new RegisterLock(this.words(1));
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
    if (at + length > this.#end) throw new InternalError('state buffer exhausted');
    return at;
  }
}

const FREE = 0;
const HELD = 1;
const CONTENDED = 2;

/**
 * The one lock of the register files, a futex over one shared word: held for the microsecond that a
 * register access takes, never across an await and never during any other wait (`waitWhile` releases
 * it). Not recursive.
 */
export class RegisterLock {
  /** Another thread makes its own object of it. */
  readonly word: Int32Array;

  constructor(word: Int32Array) {
    this.word = word;
  }

  acquire(): void {
    const { word } = this;
    if (Atomics.compareExchange(word, 0, FREE, HELD) === FREE) return;
    while (Atomics.exchange(word, 0, CONTENDED) !== FREE) Atomics.wait(word, 0, CONTENDED);
  }

  release(): void {
    if (Atomics.exchange(this.word, 0, FREE) === CONTENDED) Atomics.notify(this.word, 0, 1);
  }

  /**
   * With the lock held: releases it until a shared word has another value, and takes it again.
   * The writer of the word holds the lock too, and calls `Atomics.notify`.
   */
  waitWhile(words: Int32Array, index: number, value: number): void {
    while (words[index] === value) {
      this.release();
      Atomics.wait(words, index, value);
      this.acquire();
    }
  }

  /** Runs a step of set-up code with the lock held. */
  with<T>(step: () => T): T {
    this.acquire();
    try {
      return step();
    } finally {
      this.release();
    }
  }
}

const HEAD = 0;
const TAIL = 1;
const LOST = 2;
const WORDS = 3;

/** What was taken out of a ring. */
export interface TakenBytes {
  readonly bytes: Uint8Array;
  /** How many more there were, for which there was no room. */
  readonly lost: number;
}

/**
 * Bytes on their way from a register to the thread that owns it, in the state buffer. Bytes for which
 * there is no room are dropped and counted. All methods run with the register lock held, in any thread.
 */
export class ByteRing {
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;

  /** @param size bytes that wait at most, a power of two */
  constructor(state: SharedState, size: number) {
    this.#words = state.words(WORDS);
    this.#bytes = state.bytes(size);
  }

  push(byte: number): void {
    const words = this.#words;
    const head = words[HEAD] as number;
    if ((head - (words[TAIL] as number)) >>> 0 >= this.#bytes.length) {
      // Saturates: the number then means "at least".
      if (words[LOST] !== 0x7fff_ffff) words[LOST] = (words[LOST] as number) + 1;
      return;
    }
    this.#bytes[head & (this.#bytes.length - 1)] = byte;
    words[HEAD] = head + 1;
  }

  /** Takes all that waits. */
  take(): TakenBytes {
    const words = this.#words;
    const tail = words[TAIL] as number;
    const count = ((words[HEAD] as number) - tail) >>> 0;
    const bytes = new Uint8Array(count);
    for (let i = 0; i < count; i++) {
      bytes[i] = this.#bytes[(tail + i) & (this.#bytes.length - 1)] as number;
    }
    const lost = words[LOST] as number;
    words[TAIL] = words[HEAD] as number;
    words[LOST] = 0;
    return { bytes, lost };
  }
}
