/** Part of a chain's data, as iovecs for successive system calls. HOT. */
import { type DescriptorChain, IOVEC_SIZE } from '../../queue/descriptor-chain.ts';

/** Modifies the chain's own iovecs in place: it is their last user. */
export class IovecRange {
  readonly #chain: DescriptorChain;
  #first = 0;
  #end = 0;

  constructor(chain: DescriptorChain) {
    this.#chain = chain;
  }

  get address(): number {
    return this.#chain.iovecAddress + this.#first * IOVEC_SIZE;
  }

  get count(): number {
    return this.#end - this.#first;
  }

  /**
   * Starts on a range of the readable (or writable) part.
   * @returns false when the part ends before
   */
  take(writable: boolean, position: number, length: number): boolean {
    const chain = this.#chain;
    const last = writable ? chain.count : chain.readable;
    let first = writable ? chain.readable : 0;
    let skip = position;
    while (first < last && skip >= (chain.length[first] as number)) {
      skip -= chain.length[first] as number;
      first++;
    }
    this.#first = first;
    let left = length + skip;
    let end = first;
    for (; end < last && left > 0; end++) {
      const segment = chain.length[end] as number;
      if (segment > left) chain.iovec[end * 4 + 2] = left;
      left -= segment;
    }
    this.#end = end;
    if (left > 0) return false;
    if (skip > 0) this.advance(skip);
    return true;
  }

  /** Takes bytes off the front. */
  advance(bytes: number): void {
    this.#first = this.#chain.cutIovecs(this.#first, bytes);
  }
}
