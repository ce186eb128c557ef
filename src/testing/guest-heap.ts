/** A small allocator of guest memory, such as a driver has: power-of-two blocks with free lists. */
import { UsageError } from '../host/errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';

const SMALLEST = 16;
const PAGE = 4096;

/** Hands out pieces of a range of guest RAM. */
export class GuestHeap {
  readonly memory: GuestMemory;
  readonly #end: number;
  readonly #free = new Map<number, number[]>();
  #next: number;

  /**
   * @param start guest physical address of the first byte
   * @param end one past the last byte
   */
  constructor(memory: GuestMemory, start: number, end: number) {
    this.memory = memory;
    this.#next = start;
    this.#end = end;
  }

  /**
   * Takes a block, aligned to its size rounded up to a power of two, or to 4096 when larger.
   * @returns guest physical address
   * @throws UsageError when the range is used up
   */
  allocate(length: number): number {
    const block = blockSize(length);
    const reused = this.#free.get(block)?.pop();
    if (reused !== undefined) return reused;
    const alignment = Math.min(block, PAGE);
    const gpa = Math.ceil(this.#next / alignment) * alignment;
    if (gpa + block > this.#end) {
      throw new UsageError('E_GUEST_HEAP', 'the test heap is exhausted', 'increase guest RAM');
    }
    this.#next = gpa + block;
    return gpa;
  }

  /** Frees a block; `length` as it was allocated. */
  free(gpa: number, length: number): void {
    const block = blockSize(length);
    const list = this.#free.get(block);
    if (list === undefined) this.#free.set(block, [gpa]);
    else list.push(gpa);
  }

  /** The bytes of guest RAM at an address, not a copy. @throws RangeError outside of RAM */
  bytes(gpa: number, length: number): Uint8Array {
    return this.memory.bytes(this.memory.offset(gpa, length), length);
  }

  /** The same as a DataView. */
  view(gpa: number, length: number): DataView {
    const { buffer, byteOffset } = this.bytes(gpa, length);
    return new DataView(buffer, byteOffset, length);
  }
}

function blockSize(length: number): number {
  return Math.max(SMALLEST, 2 ** Math.ceil(Math.log2(Math.max(1, length))));
}
