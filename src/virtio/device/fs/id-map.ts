/**
 * Objects that the guest knows by our 64-bit numbers, in two halves: small integers, for which V8
 * allocates no objects. No number is used twice, nor, except by a one-in-a-million chance, one from
 * another process that served the same guest before: a guest's request for a file that is gone then
 * matches none.
 */
import { randomInt } from 'node:crypto';

/** An object with such a number. */
interface Numbered {
  readonly low: number;
  readonly high: number;
}

/** From here on a number is not a small integer. */
const MOST_LOW = 2 ** 30;
/** The upper limit for the start of the upper half: the whole number stays exact in a double for long. */
const MOST_HIGH = 2 ** 20;

export class IdMap<T extends Numbered> {
  readonly #byLow = new Map<number, T>();
  #low = 0;
  #high = randomInt(1, MOST_HIGH);

  get size(): number {
    return this.#byLow.size;
  }

  /** HOT. */
  get(low: number, high: number): T | undefined {
    const found = this.#byLow.get(low);
    return found?.high === high ? found : undefined;
  }

  /** Takes an unused number: it is `low` and `high` until the next call. */
  take(): void {
    do {
      this.#low += 1;
      if (this.#low < MOST_LOW) continue;
      this.#low = 1;
      this.#high += 1;
    } while (this.#byLow.has(this.#low));
  }

  get low(): number {
    return this.#low;
  }

  get high(): number {
    return this.#high;
  }

  add(numbered: T): void {
    this.#byLow.set(numbered.low, numbered);
  }

  delete(numbered: T): void {
    this.#byLow.delete(numbered.low);
  }

  values(): Iterable<T> {
    return this.#byLow.values();
  }
}
