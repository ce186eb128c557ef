/**
 * One of the two address spaces that a vCPU can exit on: I/O ports, or memory that is not RAM.
 * Each thread has its own, built alike; ranges that the guest moves are put in by `setMovable`.
 *
 * HOT: `read` and `write` are what a register exit runs.
 */
import { InternalError } from '../host/errors.ts';

/** Registers at some place of an address space. Runs with the register lock held. */
export interface RegisterRegion {
  /**
   * @param offset bytes from the start of the region
   * @param size 1, 2 or 4 bytes
   * @returns an unsigned number of that size
   */
  read(offset: number, size: number): number;
  write(offset: number, size: number, value: number): void;
}

/** A region and where it lies. */
export interface Range {
  readonly base: number;
  readonly size: number;
  readonly region: RegisterRegion;
}

const ALL_ONES: readonly number[] = [0, 0xff, 0xffff, 0xff_ffff, 0xffff_ffff];

/** Finds the registers behind an address. */
export class AddressSpace {
  readonly #fixed: Range[] = [];
  #ranges: readonly Range[] = [];

  /** Adds a range that stays where it is. */
  add(base: number, size: number, region: RegisterRegion): void {
    const range = { base, size, region };
    if (this.#fixed.some((other) => overlaps(other, range))) {
      throw new InternalError(`two devices at 0x${base.toString(16)}`);
    }
    this.#fixed.push(range);
    this.setMovable([]);
  }

  /**
   * Replaces the ranges that the guest placed. Where one overlaps an earlier one it is not
   * decoded: a guest that maps two BARs to one place loses the second.
   */
  setMovable(ranges: readonly Range[]): void {
    const kept: Range[] = [...this.#fixed];
    for (const range of ranges) {
      if (!kept.some((other) => overlaps(other, range))) kept.push(range);
    }
    this.#ranges = kept.sort((a, b) => a.base - b.base);
  }

  /** The registers at an address; all ones where there are none, as on a PCI bus. */
  read(address: number, size: number): number {
    const range = this.#find(address);
    if (range === undefined || address + size > range.base + range.size) {
      return ALL_ONES[size] as number;
    }
    return range.region.read(address - range.base, size);
  }

  /** Writes registers; lost where there are none. */
  write(address: number, size: number, value: number): void {
    const range = this.#find(address);
    if (range === undefined || address + size > range.base + range.size) return;
    range.region.write(address - range.base, size, value);
  }

  #find(address: number): Range | undefined {
    const ranges = this.#ranges;
    let low = 0;
    let high = ranges.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const range = ranges[middle] as Range;
      if (address < range.base) high = middle - 1;
      else if (address >= range.base + range.size) low = middle + 1;
      else return range;
    }
    return undefined;
  }
}

function overlaps(a: Range, b: Range): boolean {
  return a.base < b.base + b.size && b.base < a.base + a.size;
}
