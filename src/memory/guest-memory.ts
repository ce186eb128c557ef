/**
 * Guest RAM: one mapping of the process, seen from every thread (`ram.ts` says which kind of memory).
 *
 * HOT. `offset` is the only bounds check between a guest physical address and host memory; all
 * other methods take the offset it returned.
 */
import { viewOf } from '../host/native-memory.ts';
import { type FileRegion, offsetInFile } from './file-regions.ts';
import { type BlocksShare, PluggedBlocks } from './plugged-blocks.ts';
import {
  GiB,
  HIGH_RAM_BASE,
  LOW_RAM_LIMIT,
  MiB,
  type RamRegion,
  ramRegions,
} from './ram-layout.ts';
import { RegionTable } from './region-table.ts';

/** What another thread needs to see the same RAM; a plain, cloneable message. */
export interface GuestMemoryShare {
  /** The memory file that other processes may map, or -1 when there is none. */
  readonly fd: number;
  /** Host virtual address of the mapping, valid in every thread of the process. */
  readonly address: number;
  /** Bytes of RAM; of the mapping, holes included, when `regions` are given. */
  readonly size: number;
  /** RAM besides, which comes and goes; in the same mapping. Absent: none. */
  readonly blocks?: BlocksShare;
  /** Files of the host, in the same mapping, above all RAM. Absent: none. */
  readonly files?: readonly FileRegion[];
  /** What is RAM in it, lowest first, as a `RegionTable` wants it. Absent: a PC's layout. */
  readonly regions?: readonly RamRegion[];
  /**
   * Of a device behind an IOMMU, whose addresses are offsets in the mapping: what it may do with each
   * page of them, as ACCESS_ bits (`iova-space.ts`). Absent: it uses guest physical addresses.
   */
  readonly pages?: SharedArrayBuffer;
}

/** What a device may do with a page of its addresses. */
export const ACCESS_READ = 1;
export const ACCESS_WRITE = 2;
/** Bytes of a page, also as a power of two. */
export const PAGE_SHIFT = 12;
export const PAGE_SIZE = 2 ** PAGE_SHIFT;

/** An access that the IOMMU denied. */
export interface DeniedAccess {
  /** The first address that it denied, at the start of a page. */
  readonly address: number;
  readonly write: boolean;
}

/** @param access what was needed, as ACCESS_ bits */
export function deniedAccess(address: number, access: number): DeniedAccess {
  const page = Math.floor(address / PAGE_SIZE) * PAGE_SIZE;
  return { address: page, write: (access & ACCESS_WRITE) !== 0 };
}

/**
 * RAM is viewed in chunks, because indices below 2^30 stay small integers in V8. Each view reaches
 * this far into the next chunk, so that no scalar and no ring (at most 32768 * 16 bytes) straddles.
 */
export const CHUNK = GiB;
const OVERLAP = MiB;
const CHUNK_SHIFT = 30;

/** A thread's view of guest RAM. */
export class GuestMemory {
  readonly share: GuestMemoryShare;
  /** Host virtual address of RAM offset 0. */
  readonly address: number;
  readonly size: number;
  readonly regions: readonly RamRegion[];
  /** Bytes of the mapping. */
  readonly #mapped: number;
  readonly #lowSize: number;
  readonly #highSize: number;
  /** RAM below 2 GiB, a byte short of that at most. */
  readonly #smallSize: number;
  /** Of another program's guest; all sizes above are as if there were no RAM then. */
  readonly #foreign: RegionTable | null;
  /** ACCESS_ bits by page, of a device behind an IOMMU; all sizes above are likewise. */
  readonly #pages: Uint8Array | null;
  /** RAM above the regions, which comes and goes. */
  readonly blocks: PluggedBlocks | null;
  /** The last access that the IOMMU denied. */
  denied: DeniedAccess | undefined;
  /** Where in its chunk the range begins that `locate` found last. */
  position = 0;
  #bytes: Uint8Array[] = [];
  #views: DataView[] = [];

  constructor(share: GuestMemoryShare) {
    this.share = share;
    this.address = share.address;
    this.size = share.size;
    this.regions = share.regions ?? ramRegions(share.size);
    const foreign = share.regions === undefined ? null : new RegionTable(share.regions);
    this.#foreign = foreign;
    this.#pages = share.pages === undefined ? null : new Uint8Array(share.pages);
    const plain = foreign === null && this.#pages === null;
    this.#lowSize = plain ? Math.min(share.size, LOW_RAM_LIMIT) : -1;
    this.#highSize = plain ? share.size - this.#lowSize : -1;
    this.#smallSize = plain ? Math.min(share.size, 2 ** 31 - 1) | 0 : -1;
    const { blocks } = share;
    this.blocks = blocks === undefined ? null : new PluggedBlocks(blocks);
    const last = share.files?.at(-1) ?? blocks;
    this.#mapped = last === undefined ? share.size : last.offset + last.size;
    for (let at = 0; at < this.#mapped; at += CHUNK) {
      const length = Math.min(CHUNK + OVERLAP, (foreign?.endOf(at) ?? this.#mapped) - at);
      const buffer = viewOf(share.address + at, length);
      this.#bytes.push(new Uint8Array(buffer));
      this.#views.push(new DataView(buffer));
    }
  }

  /**
   * Offset of a guest physical range in RAM, or -1 unless all of it is RAM.
   * @param gpa guest physical address, 0 to 2^64 as a double: rounding above 2^53 cannot make a
   *   bad address good, since RAM ends far below
   * @param length bytes, 0 to 2^53
   * @param write whether the device will write there, which an IOMMU may deny
   */
  offset(gpa: number, length: number, write = false): number {
    if (this.#pages !== null) return this.#permits(gpa, length, write) ? gpa : -1;
    if (this.#foreign !== null) return this.#foreign.offset(gpa, length);
    if (gpa < LOW_RAM_LIMIT) return gpa >= 0 && gpa + length <= this.#lowSize ? gpa : -1;
    const high = gpa - HIGH_RAM_BASE;
    if (high >= 0 && high + length <= this.#highSize) return this.#lowSize + high;
    return this.#offsetAbove(gpa, length, write);
  }

  #offsetAbove(gpa: number, length: number, write: boolean): number {
    const offset = this.blocks?.offset(gpa, length) ?? -1;
    const { files } = this.share;
    if (offset >= 0 || files === undefined) return offset;
    return offsetInFile(files, gpa, length, write);
  }

  /** Guest physical address of an offset in RAM; -1 outside. */
  gpaOf(offset: number): number {
    for (const region of this.regions) {
      if (offset < region.offset + region.size) return region.gpa + offset - region.offset;
    }
    for (const region of this.#above) {
      if (offset < region.offset + region.size) return region.gpa + offset - region.offset;
    }
    return -1;
  }

  /** What is above the regions. */
  get #above(): readonly RamRegion[] {
    const { blocks, files = [] } = this.share;
    return blocks === undefined ? files : [blocks, ...files];
  }

  /** Bytes that a PC's RAM without a gap would have, to end where this may. */
  get reach(): number {
    const last = this.#above.at(-1);
    if (last === undefined) return this.size;
    return LOW_RAM_LIMIT + last.gpa + last.size - HIGH_RAM_BASE;
  }

  readU8(offset: number): number {
    const chunk = Math.floor(offset / CHUNK) | 0;
    return this.#view(chunk).getUint8(placeIn(chunk, offset));
  }
  readU16(offset: number): number {
    const chunk = Math.floor(offset / CHUNK) | 0;
    return this.#view(chunk).getUint16(placeIn(chunk, offset), true);
  }
  readU32(offset: number): number {
    const chunk = Math.floor(offset / CHUNK) | 0;
    return this.#view(chunk).getUint32(placeIn(chunk, offset), true);
  }
  /** A 64-bit value as a double: exact below 2^53. */
  readU64(offset: number): number {
    const chunk = Math.floor(offset / CHUNK) | 0;
    const view = this.#view(chunk);
    const at = placeIn(chunk, offset);
    return view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
  }
  writeU8(offset: number, value: number): void {
    const chunk = Math.floor(offset / CHUNK) | 0;
    this.#view(chunk).setUint8(placeIn(chunk, offset), value);
  }
  writeU16(offset: number, value: number): void {
    const chunk = Math.floor(offset / CHUNK) | 0;
    this.#view(chunk).setUint16(placeIn(chunk, offset), value, true);
  }
  writeU32(offset: number, value: number): void {
    const chunk = Math.floor(offset / CHUNK) | 0;
    this.#view(chunk).setUint32(placeIn(chunk, offset), value, true);
  }
  writeU64(offset: number, value: number): void {
    const chunk = Math.floor(offset / CHUNK) | 0;
    const view = this.#view(chunk);
    const at = placeIn(chunk, offset);
    view.setUint32(at, value >>> 0, true);
    view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
  }

  /** A view of a piece of RAM, without copying. Not for hot loops: it allocates. */
  bytes(offset: number, length: number): Uint8Array {
    const index = Math.floor(offset / CHUNK) | 0;
    const at = placeIn(index, offset);
    const chunk = this.#bytes[index];
    if (chunk !== undefined && at + length <= chunk.length) return chunk.subarray(at, at + length);
    if (offset < 0 || offset + length > this.#mapped) throw new RangeError('outside guest RAM');
    return new Uint8Array(viewOf(this.address + offset, length));
  }

  /**
   * `offset` for the hottest code: numbers that cross a call are small integers, which V8 keeps out
   * of the heap wherever the address lies.
   * @param low the address's lower half, as a signed 32-bit integer
   * @param high its upper half, likewise
   * @param length bytes, likewise
   * @param write as of `offset`
   * @returns the chunk that the range starts in, at `position`; or -1 unless all of it is RAM
   */
  locate(low: number, high: number, length: number, write: boolean): number {
    // Below 2 GiB, where most addresses of most guests are, small integers do.
    if (high === 0 && low >= 0 && length >= 0 && length <= this.#smallSize - low) {
      this.position = low & (CHUNK - 1);
      return low >> CHUNK_SHIFT;
    }
    return this.#locateAnywhere(low, high, length, write);
  }

  #locateAnywhere(low: number, high: number, length: number, write: boolean): number {
    const foreign = this.#foreign;
    if (foreign !== null) {
      const chunk = foreign.locate(low, high, length);
      this.position = foreign.position;
      return chunk;
    }
    const offset = this.offset((high >>> 0) * 2 ** 32 + (low >>> 0), length >>> 0, write);
    if (offset < 0) return -1;
    const chunk = (offset / CHUNK) | 0;
    this.position = (offset - chunk * CHUNK) | 0;
    return chunk;
  }

  /** Whether the IOMMU lets the device use a range. */
  #permits(address: number, length: number, write: boolean): boolean {
    const pages = this.#pages as Uint8Array;
    const needed = write ? ACCESS_WRITE : ACCESS_READ;
    let page = Math.floor(address / PAGE_SIZE);
    if (address >= 0 && address + length <= this.size) {
      const end = Math.ceil((address + length) / PAGE_SIZE);
      while (page < end && ((pages[page] as number) & needed) !== 0) page++;
      if (page >= end) return true;
    }
    this.denied = { address: page * PAGE_SIZE, write };
    return false;
  }

  /** The view of a chunk; up to 1 MiB from `position` on are in it, as far as RAM goes. */
  chunkView(chunk: number): DataView {
    return this.#views[chunk] as DataView;
  }

  /** Drops every view; to be called before the mapping goes. */
  detach(): void {
    this.#bytes = [];
    this.#views = [];
  }

  #view(chunk: number): DataView {
    const view = this.#views[chunk];
    if (view === undefined) throw new RangeError('outside guest RAM');
    return view;
  }
}

/** Where in its chunk an offset lies. Not by `%`, which is a call for numbers beyond small integers. */
function placeIn(chunk: number, offset: number): number {
  return (offset - chunk * CHUNK) | 0;
}
