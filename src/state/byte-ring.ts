/**
 * Bytes on their way from a register to the thread that owns it, in the state buffer. What there is
 * no room for is lost and counted. All methods run with the register lock held, in any thread.
 */
import type { SharedState } from './shared-state.ts';

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

/** One ring. */
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
      // Counts no further than it can: the number says "at least" then.
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
