/** Small numbers in the order in which they were added. Adding and removing any of them takes constant time. */
const NONE = -1;

/** HOT. Nothing is allocated after construction. */
export class IndexList {
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  /** -1 when it is empty. */
  first = NONE;
  last = NONE;

  /** @param size its numbers are 0 to size - 1 */
  constructor(size: number) {
    this.#next = new Int32Array(size);
    this.#previous = new Int32Array(size);
  }

  /** @param index not in the list */
  add(index: number): void {
    this.#previous[index] = this.last;
    this.#next[index] = NONE;
    if (this.last === NONE) this.first = index;
    else this.#next[this.last] = index;
    this.last = index;
  }

  /** @param index in the list */
  remove(index: number): void {
    const previous = this.#previous[index] as number;
    const next = this.#next[index] as number;
    if (previous === NONE) this.first = next;
    else this.#next[previous] = next;
    if (next === NONE) this.last = previous;
    else this.#previous[next] = previous;
  }

  /** The number after one in the list; -1 after the last. */
  after(index: number): number {
    return this.#next[index] as number;
  }
}
