/**
 * Room for the buffers of chains in flight. A short chain has the room of its descriptor; longer ones lie one
 * behind the other in a circle, and the oldest of them still in flight marks its end.
 *
 * HOT. Nothing is allocated after construction.
 */
import { IndexList } from './index-list.ts';
import { LARGE_SIZE, type ShadowPlaces, SMALL_SIZE } from './shadow-layout.ts';

const NO_ROOM = -1;

/** The buffers of one queue. */
export class ShadowBuffers {
  readonly #small: number;
  readonly #large: number;
  /** Heads of the longer chains, and where each begins in the circle. */
  readonly #order: IndexList;
  readonly #start: Int32Array;
  readonly #isLarge: Uint8Array;
  /** Where the next one begins. */
  #next = 0;

  constructor({ size, small, large }: ShadowPlaces) {
    this.#small = small;
    this.#large = large;
    this.#order = new IndexList(size);
    this.#start = new Int32Array(size);
    this.#isLarge = new Uint8Array(size);
  }

  /**
   * @param head the chain's first descriptor
   * @param bytes at most `LARGE_SIZE`
   * @returns the address, or -1 when there is no room at present
   */
  allocate(head: number, bytes: number): number {
    if (bytes <= SMALL_SIZE) {
      this.#isLarge[head] = 0;
      return this.#small + head * SMALL_SIZE;
    }
    const start = this.#find(bytes);
    if (start < 0) return NO_ROOM;
    this.#isLarge[head] = 1;
    this.#start[head] = start;
    this.#order.add(head);
    this.#next = start + bytes;
    return this.#large + start;
  }

  release(head: number): void {
    if (this.#isLarge[head] === 1) this.#order.remove(head);
  }

  #find(bytes: number): number {
    const { first } = this.#order;
    if (first < 0) return 0;
    const end = this.#start[first] as number;
    const next = this.#next;
    // Never up to the end: a full circle would look like an empty one.
    if (next < end) return next + bytes < end ? next : NO_ROOM;
    if (next + bytes <= LARGE_SIZE) return next;
    return bytes < end ? 0 : NO_ROOM;
  }
}
