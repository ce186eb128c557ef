/**
 * Gives pages of guest RAM back to the host. They read as zeroes afterwards, and the host finds new ones for them when
 * they are next touched, by whomever.
 */
import { fstatSync } from 'node:fs';
import { InternalError } from '../host/errors.ts';
import * as sys from '../host/syscall.ts';
import { type GuestMemory, PAGE_SIZE } from './guest-memory.ts';

const MADV_DONTNEED = 4;
/** FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE. */
const PUNCH_HOLE = 3;

/** Guest RAM, in the pages of the host that it is made of. */
export class ReleasableRam {
  /** Bytes that can be given back at once: 4096, or those of a huge page. */
  readonly pageSize: number;
  readonly #memory: GuestMemory;

  /** @param memory RAM of this process's guest, at its guest physical addresses */
  constructor(memory: GuestMemory) {
    const { fd, regions, pages } = memory.share;
    if (regions !== undefined || pages !== undefined) {
      throw new InternalError('only RAM of this process can be given back');
    }
    this.#memory = memory;
    this.pageSize = fd < 0 ? PAGE_SIZE : fstatSync(fd).blksize;
  }

  /**
   * Gives back the whole pages in a range.
   * @param offset of the range in RAM, as `GuestMemory.offset` gave it
   * @returns the negative errno when the host does not take them
   */
  release(offset: number, length: number): number {
    const { pageSize } = this;
    const start = Math.ceil(offset / pageSize) * pageSize;
    const end = Math.floor((offset + length) / pageSize) * pageSize;
    if (end <= start) return 0;
    const { fd, address } = this.#memory.share;
    // The file's pages are dropped for every process and mapping that has it.
    if (fd >= 0) return sys.fallocate(fd, PUNCH_HOLE, start, end - start);
    return sys.madvise(address + start, end - start, MADV_DONTNEED);
  }
}
