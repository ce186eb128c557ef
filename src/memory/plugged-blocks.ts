/**
 * Guest RAM that comes and goes in blocks: a region above all other RAM, of which only plugged blocks can be reached.
 */
import { GiB, HIGH_RAM_BASE, LOW_RAM_LIMIT, MiB, type RamRegion } from './ram-layout.ts';

/** Bytes of a block, and its alignment: a huge page. */
export const BLOCK_SIZE = 2 * MiB;
/** Kernels plug memory in larger sections, of up to this size, of which no other RAM should be a part. */
const SECTION = 2 * GiB;

/** What another thread needs to see the same blocks; a plain, cloneable message. */
export interface BlocksShare extends RamRegion {
  /** A byte for each block: 1 while it is plugged. */
  readonly plugged: SharedArrayBuffer;
}

/** Where the RAM of a PC ends, or the hole below 4 GiB. @param ramSize bytes */
export function ramEnd(ramSize: number): number {
  return HIGH_RAM_BASE + Math.max(0, ramSize - LOW_RAM_LIMIT);
}

/**
 * A region for a guest with other RAM.
 * @param ramSize bytes of that
 * @param size bytes of the region, whole blocks
 */
export function blocksShare(ramSize: number, size: number): BlocksShare {
  return {
    // A gap keeps buffers from reaching from one into the other.
    gpa: (Math.floor(ramEnd(ramSize) / SECTION) + 1) * SECTION,
    size,
    offset: Math.ceil(ramSize / BLOCK_SIZE) * BLOCK_SIZE,
    plugged: new SharedArrayBuffer(size / BLOCK_SIZE),
  };
}

/** A thread's view of them. Numbers of blocks count from the region's start. */
export class PluggedBlocks {
  readonly share: BlocksShare;
  readonly #plugged: Uint8Array;

  constructor(share: BlocksShare) {
    this.share = share;
    this.#plugged = new Uint8Array(share.plugged);
  }

  /** How many blocks there are. */
  get count(): number {
    return this.#plugged.length;
  }

  /** As `GuestMemory.offset`: -1 unless all of a range is plugged. */
  offset(gpa: number, length: number): number {
    const { gpa: start, size, offset } = this.share;
    const at = gpa - start;
    if (!(at >= 0 && at + length <= size)) return -1;
    const end = Math.ceil((at + length) / BLOCK_SIZE);
    for (let block = Math.floor(at / BLOCK_SIZE); block < end; block++) {
      if (this.#plugged[block] !== 1) return -1;
    }
    return offset + at;
  }

  /** How many of some neighbors are plugged. */
  pluggedOf(first: number, count: number): number {
    let plugged = 0;
    for (let block = first; block < first + count; block++) plugged += this.#plugged[block] ?? 0;
    return plugged;
  }

  set(first: number, count: number, plugged: boolean): void {
    this.#plugged.fill(plugged ? 1 : 0, first, first + count);
  }
}
