/**
 * Where the regions of another program's guest lie in our mapping of them. Their guest physical
 * addresses may be anything: a frontend without a guest uses its own virtual addresses.
 *
 * Each GiB of guest physical addresses that has RAM gets a chunk of the mapping, in order, so that
 * adjacent regions are adjacent there too, and a range may span them.
 *
 * HOT: `locate`. What was found last in each of 64 such GiB is remembered as small integers.
 */
import { GiB, type RamRegion } from './ram-layout.ts';

const CHUNK_SHIFT = 30;
/** Remembered places: a direct-mapped table by the number of the GiB. */
const PLACES = 64;
/** Words of each: the number of its GiB; first and last byte + 1 within it; its chunk. */
const PLACE_WORDS = 4;
const FIRST = 1;
const END = 2;
const CHUNK = 3;
const NO_PAGE = -1;
const MOST = 2 ** 31 - 1;

/** The chunk of each GiB of guest physical addresses that has RAM, by the GiB's number. */
export function assignChunks(regions: readonly RangeOfGuest[]): Map<number, number> {
  const pages = new Set<number>();
  for (const { gpa, size } of regions) {
    const last = Math.floor((gpa + size - 1) / GiB);
    for (let page = Math.floor(gpa / GiB); page <= last; page++) pages.add(page);
  }
  return new Map([...pages].sort((a, b) => a - b).map((page, chunk) => [page, chunk]));
}

/** A piece of guest physical address space. */
export interface RangeOfGuest {
  readonly gpa: number;
  /** Bytes, at least 1. */
  readonly size: number;
}

/** Finds guest physical addresses in a mapping that `assignChunks` has laid out. */
export class RegionTable {
  /** Where in its chunk the range begins that `locate` found last. */
  position = 0;
  /** Regions that touch each other are one here; lowest first. */
  readonly #spans: RamRegion[] = [];
  readonly #places = new Int32Array(PLACES * PLACE_WORDS).fill(NO_PAGE);

  /** @param regions lowest first, without overlaps */
  constructor(regions: readonly RamRegion[]) {
    for (const region of regions) {
      const last = this.#spans.at(-1);
      const touches =
        last !== undefined &&
        last.gpa + last.size === region.gpa &&
        last.offset + last.size === region.offset;
      if (!touches) this.#spans.push(region);
      else this.#spans.splice(-1, 1, { ...last, size: last.size + region.size });
    }
  }

  /** Where the RAM ends that begins in the chunk at an offset, or before it. */
  endOf(offset: number): number {
    const spans = this.#spans.filter((span) => span.offset < offset + GiB);
    return Math.max(...spans.map((span) => span.offset + span.size));
  }

  /** As `GuestMemory.offset`. */
  offset(gpa: number, length: number): number {
    for (const span of this.#spans) {
      if (gpa >= span.gpa && gpa + length <= span.gpa + span.size) {
        return span.offset + (gpa - span.gpa);
      }
    }
    return -1;
  }

  /** As `GuestMemory.locate`. */
  locate(low: number, high: number, length: number): number {
    const page = (high << 2) | (low >>> CHUNK_SHIFT);
    const at = low & (GiB - 1);
    const place = (page & (PLACES - 1)) * PLACE_WORDS;
    const places = this.#places;
    if (
      places[place] === page &&
      high >>> 20 === 0 &&
      at >= (places[place + FIRST] as number) &&
      length >= 0 &&
      length <= (places[place + END] as number) - at
    ) {
      this.position = at;
      return places[place + CHUNK] as number;
    }
    return this.#search(low, high, length);
  }

  #search(low: number, high: number, length: number): number {
    const gpa = (high >>> 0) * 2 ** 32 + (low >>> 0);
    const bytes = length >>> 0;
    for (const span of this.#spans) {
      const end = span.gpa + span.size;
      if (gpa < span.gpa || gpa + bytes > end) continue;
      const at = low & (GiB - 1);
      const start = gpa - at;
      const chunk = Math.floor((span.offset + gpa - span.gpa) / GiB) | 0;
      const place = ((start / GiB) & (PLACES - 1)) * PLACE_WORDS;
      this.#places[place] = (high << 2) | (low >>> CHUNK_SHIFT);
      this.#places[place + FIRST] = Math.max(0, span.gpa - start);
      this.#places[place + END] = Math.min(MOST, end - start);
      this.#places[place + CHUNK] = chunk;
      this.position = at;
      return chunk;
    }
    return -1;
  }
}
