/** The pages in a balloon: runs of them go back to the host. */
import { PAGE_SHIFT, PAGE_SIZE } from '../../../memory/guest-memory.ts';
import type { ReleasableRam } from '../../../memory/releasable-ram.ts';

/** What a balloon needs of guest RAM. */
export interface BalloonRam {
  /** As `GuestMemory.offset`. */
  offset(gpa: number, length: number): number;
  /** Bytes. */
  readonly size: number;
}

/** A page number that the driver named is not RAM. */
export const NOT_RAM = 'outside guest RAM';

/** What is put into a balloon, and taken out of it. */
export class BalloonPages {
  readonly #ram: BalloonRam;
  readonly #releasable: Pick<ReleasableRam, 'release' | 'pageSize'>;
  /** With huge pages: a bit for each small page that is in the balloon, by its offset in RAM. */
  readonly #inside: Uint8Array | undefined;

  constructor(ram: BalloonRam, releasable: Pick<ReleasableRam, 'release' | 'pageSize'>) {
    this.#ram = ram;
    this.#releasable = releasable;
    const bits = ram.size / PAGE_SIZE;
    this.#inside =
      releasable.pageSize === PAGE_SIZE ? undefined : new Uint8Array(Math.ceil(bits / 8));
  }

  /**
   * Puts pages in.
   * @param numbers of the pages, in any order; sorted by this
   * @returns 0, or the negative errno of the host, or `NOT_RAM`: some may be in it then
   */
  inflate(numbers: Uint32Array): number | typeof NOT_RAM {
    return this.#eachRun(numbers, (offset, length) =>
      this.#inside === undefined
        ? this.#releasable.release(offset, length)
        : this.#fillHugePages(this.#inside, offset, length),
    );
  }

  /** Takes pages out: the host finds new ones when they are touched. @returns as `inflate` */
  deflate(numbers: Uint32Array): number | typeof NOT_RAM {
    return this.#eachRun(numbers, (offset, length) => {
      const inside = this.#inside;
      for (let at = offset; inside !== undefined && at < offset + length; at += PAGE_SIZE) {
        const page = at / PAGE_SIZE;
        (inside[page >> 3] as number) &= ~(1 << (page & 7));
      }
      return 0;
    });
  }

  /** Nothing is in it any more. */
  clear(): void {
    this.#inside?.fill(0);
  }

  /** Calls back with each run of neighbors. */
  #eachRun(
    numbers: Uint32Array,
    take: (offset: number, length: number) => number,
  ): number | typeof NOT_RAM {
    numbers.sort();
    let failed = 0;
    for (let at = 0; at < numbers.length; ) {
      const first = numbers[at] as number;
      let last = first;
      at++;
      // A page that is named twice is put in once.
      while (at < numbers.length && (numbers[at] as number) - last <= 1) {
        last = numbers[at] as number;
        at++;
      }
      const length = (last - first + 1) * PAGE_SIZE;
      const offset = this.#ram.offset(first * 2 ** PAGE_SHIFT, length);
      if (offset < 0) return NOT_RAM;
      failed = take(offset, length) || failed;
    }
    return failed;
  }

  /** A huge page goes back once all of it is in the balloon. */
  #fillHugePages(inside: Uint8Array, offset: number, length: number): number {
    const { pageSize } = this.#releasable;
    for (let at = offset; at < offset + length; at += PAGE_SIZE) {
      const page = at / PAGE_SIZE;
      (inside[page >> 3] as number) |= 1 << (page & 7);
    }
    let failed = 0;
    const first = Math.floor(offset / pageSize) * pageSize;
    for (let at = first; at < offset + length; at += pageSize) {
      const from = at / PAGE_SIZE / 8;
      const bytes = inside.subarray(from, from + pageSize / PAGE_SIZE / 8);
      if (bytes.every((byte) => byte === 0xff)) {
        failed = this.#releasable.release(at, pageSize) || failed;
      }
    }
    return failed;
  }
}
