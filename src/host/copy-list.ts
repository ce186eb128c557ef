/** Many copies by one call: a call of V8's own for each costs as much as copying a packet does. */
import { nativeAddon } from './native-addon.ts';
import { NativeMemory } from './native-memory.ts';

/** Numbers of a copy, and which is which: addresses of target and source, and bytes. */
export const COPY = 3;
export const COPY_TARGET = 0;
export const COPY_SOURCE = 1;
export const COPY_BYTES = 2;

/**
 * A list of copies between pieces of memory.
 *
 * HOT, measured by bench/groups/vhost-user.ts.
 */
export class CopyList {
  /**
   * `COPY` numbers for each, which the caller has checked. Written in place, since a call with
   * numbers beyond small integers allocates them.
   */
  readonly numbers: Float64Array;
  readonly #native: NativeMemory;
  readonly #copy = nativeAddon().copy;

  /** @param capacity copies that it has room for */
  constructor(capacity: number) {
    this.#native = new NativeMemory(capacity * COPY * Float64Array.BYTES_PER_ELEMENT);
    this.numbers = new Float64Array(this.#native.bytes.buffer);
  }

  /** Does the first `count` copies, in order. Target and source of one may overlap. */
  run(count: number): void {
    if (count > 0) this.#copy(this.#native.address, Math.min(count, this.numbers.length / COPY));
  }
}
