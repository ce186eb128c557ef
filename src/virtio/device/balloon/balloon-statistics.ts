/** What a guest's balloon driver reports of the guest's memory (virtio 1.3 §5.5.6.3). */
import * as abi from '../../../abi/virtio-balloon.ts';
import type { DescriptorChain } from '../../queue/descriptor-chain.ts';

/** The guest's view of its memory. A driver reports what it knows. Amounts are bytes. */
export interface GuestMemoryStatistics {
  /** Swapped in, since the guest's boot. */
  readonly swapIn?: number;
  /** Swapped out. */
  readonly swapOut?: number;
  /** Major page faults, since the guest's boot. */
  readonly majorFaults?: number;
  readonly minorFaults?: number;
  /** Memory that nothing uses. */
  readonly free?: number;
  readonly total?: number;
  /** Memory that new programs could have without swapping. */
  readonly available?: number;
  /** Memory, of caches, that can be reclaimed without I/O. */
  readonly caches?: number;
  /** Huge pages that the guest's kernel could allocate, and those that it could not. */
  readonly hugePagesAllocated?: number;
  readonly hugePagesFailed?: number;
}

const NAMES: Readonly<Record<number, keyof GuestMemoryStatistics>> = {
  [abi.VIRTIO_BALLOON_S_SWAP_IN]: 'swapIn',
  [abi.VIRTIO_BALLOON_S_SWAP_OUT]: 'swapOut',
  [abi.VIRTIO_BALLOON_S_MAJFLT]: 'majorFaults',
  [abi.VIRTIO_BALLOON_S_MINFLT]: 'minorFaults',
  [abi.VIRTIO_BALLOON_S_MEMFREE]: 'free',
  [abi.VIRTIO_BALLOON_S_MEMTOT]: 'total',
  [abi.VIRTIO_BALLOON_S_AVAIL]: 'available',
  [abi.VIRTIO_BALLOON_S_CACHES]: 'caches',
  [abi.VIRTIO_BALLOON_S_HTLB_PGALLOC]: 'hugePagesAllocated',
  [abi.VIRTIO_BALLOON_S_HTLB_PGFAIL]: 'hugePagesFailed',
};

/** Entries that are looked at; the specification has 10. */
const ENTRIES_MAX = 64;

/** Reads a buffer of the statistics queue: entries in any order; unknown ones are ignored. */
export function readStatistics(chain: DescriptorChain): GuestMemoryStatistics {
  const { size, tag, val } = abi.virtio_balloon_stat;
  const count = Math.min(Math.floor(chain.readableLength / size), ENTRIES_MAX);
  const found: Record<string, number> = {};
  for (let entry = 0; entry < count; entry++) {
    const name = NAMES[chain.readUint(entry * size + tag.offset, 2)];
    if (name !== undefined) found[name] = chain.readUint(entry * size + val.offset, 8);
  }
  return found;
}
