/** Files of the host in guest physical address space, above all RAM, which devices reach like RAM. */

import { BLOCK_SIZE } from './plugged-blocks.ts';
import { GiB, type RamRegion } from './ram-layout.ts';

/** A file, opened as it is to be used, of whole blocks. It stays the caller's. */
export interface MappedFile {
  readonly fd: number;
  /** Bytes. */
  readonly size: number;
  /** Nobody writes to it. */
  readonly readOnly: boolean;
  /** For messages. */
  readonly path: string;
}

/** Where one is. */
export interface FileRegion extends RamRegion {
  readonly readOnly: boolean;
}

/**
 * Their regions.
 * @param end of all RAM, guest physical
 * @param offset where the mapping of RAM ends
 */
export function fileRegions(
  files: readonly MappedFile[],
  end: number,
  offset: number,
): FileRegion[] {
  let gpa = end;
  let at = offset;
  return files.map(({ size, readOnly }) => {
    // A gap keeps buffers from reaching from one into the other.
    gpa = (Math.floor(gpa / GiB) + 1) * GiB;
    at = Math.ceil(at / BLOCK_SIZE) * BLOCK_SIZE;
    const region = { gpa, size, offset: at, readOnly };
    gpa += size;
    at += size;
    return region;
  });
}

/** As `GuestMemory.offset`, in any of them. */
export function offsetInFile(
  regions: readonly FileRegion[],
  gpa: number,
  length: number,
  write: boolean,
): number {
  for (const region of regions) {
    const at = gpa - region.gpa;
    if (at < 0 || at + length > region.size) continue;
    return write && region.readOnly ? -1 : region.offset + at;
  }
  return -1;
}
