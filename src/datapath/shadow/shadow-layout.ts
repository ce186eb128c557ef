/** Where rings and buffers lie in the memory that a backend gets instead of the guest's. */
import { virtq_desc } from '../../abi/virtio-ring.ts';
import { MiB } from '../../memory/ram-layout.ts';

const PAGE = 4096;
/** Room for a short chain, of which each descriptor has one: then a queue of packets stays in the CPU's cache. */
export const SMALL_SIZE = 8192;
/** Room for the longer chains of a queue together, and hence for one. */
export const LARGE_SIZE = 16 * MiB;

/** Places of one queue, as offsets in the memory, which are also its addresses. */
export interface ShadowPlaces {
  /** Descriptors: a power of two. */
  readonly size: number;
  readonly descriptorArea: number;
  readonly driverArea: number;
  readonly deviceArea: number;
  /** `SMALL_SIZE` bytes for each descriptor. */
  readonly small: number;
  /** `LARGE_SIZE` bytes. */
  readonly large: number;
}

/** The memory of a device. */
export interface ShadowLayout {
  /** Bytes. Untouched pages of it take no memory. */
  readonly size: number;
  readonly queues: readonly ShadowPlaces[];
}

/**
 * Lays out a split ring (virtio 1.3 §2.7) and buffers for each queue.
 * @param sizes descriptors of each queue, powers of two
 */
export function shadowLayout(sizes: readonly number[]): ShadowLayout {
  let end = 0;
  const take = (bytes: number): number => {
    const at = end;
    end += Math.ceil(bytes / PAGE) * PAGE;
    return at;
  };
  const queues = sizes.map((size) => ({
    size,
    descriptorArea: take(size * virtq_desc.size),
    driverArea: take(6 + 2 * size),
    deviceArea: take(6 + 8 * size),
    small: take(size * SMALL_SIZE),
    large: take(LARGE_SIZE),
  }));
  return { size: end, queues };
}
