/** The unit in which a guest addresses a disk (virtio 1.3 §5.2.4, `blk_size`). */
import { UsageError } from '../host/errors.ts';

/** What guests take: Linux before 6.15 knows none above its page size. */
const SIZES: readonly number[] = [512, 1024, 2048, 4096];

/** A disk, as far as it matters. Sizes in bytes. */
export interface BlockSizeGround {
  readonly path: string;
  /** What a person asked for. */
  readonly asked: number | undefined;
  /** What it is without having been asked for. */
  readonly natural: number;
  /** The smallest unit of O_DIRECT; undefined when it is not opened so: the page cache takes any. */
  readonly direct: number | undefined;
  readonly size: number;
  /** A file whose last block may be filled up with zeroes: it is only read. */
  readonly fillsUp: boolean;
  readonly isFile: boolean;
}

/** @throws UsageError in one line, when a guest or the host could not do with what was asked for */
export function logicalBlockSize(ground: BlockSizeGround): number {
  const { path, asked, natural, direct, size, fillsUp, isFile } = ground;
  if (asked === undefined) return natural;
  const refuse = (text: string): never => {
    throw new UsageError('E_DISK_BLOCK_SIZE', `disk ${path}: ${text}`);
  };
  if (!SIZES.includes(asked)) {
    refuse(`the block size must be 512, 1024, 2048, or 4096, not ${asked}`);
  }
  if (direct !== undefined && asked < direct) {
    refuse(
      `O_DIRECT needs blocks of at least ${direct} bytes there, not ${asked}; leave direct off, or set block-size=${direct}`,
    );
  }
  if (size % asked !== 0 && !fillsUp) {
    const remedy = isFile ? `pad it with: truncate -s %${asked} ${path}` : 'use a smaller one';
    refuse(`its size, ${size} bytes, is not a multiple of the block size ${asked}; ${remedy}`);
  }
  return asked;
}
