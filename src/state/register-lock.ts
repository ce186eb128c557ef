/**
 * The one lock of the register files: held for the microsecond that a register access takes, never
 * across an await and never while waiting for anything else: `waitWhile` lets go of it.
 */

const FREE = 0;
const HELD = 1;
const CONTENDED = 2;

/** A futex lock over one shared word. Not recursive. */
export class RegisterLock {
  /** What another thread makes its own object of. */
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
   * With the lock held: lets go of it until a shared word has another value, and takes it again.
   * Whoever changes the word holds the lock too, and calls `Atomics.notify`.
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
