/**
 * What the guest knows by 64-bit numbers of ours, in two halves: small integers, of which V8 makes
 * no objects. No number is used twice, nor, but for a chance of one in a million, one that another
 * process gave out who served the same guest before: what the guest says of a file that is gone is
 * about none.
 */
import { randomInt } from 'node:crypto';

/** What has such a number. */
interface Numbered {
  readonly low: number;
  readonly high: number;
}

/** From here on a number is no small integer. */
const MOST_LOW = 2 ** 30;
/** Where the upper half starts at most: the whole number is exact in a double for long. */
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

  /** Takes a number that nothing has: it is `low` and `high` until the next call. */
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
