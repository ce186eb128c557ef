/**
 * Where a ring stands whose backend is gone without having said so. What is in flight a record
 * shared with the backend tells (VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD), or, as far as they do, the
 * two parts of a split ring themselves.
 */
import { VIRTIO_F_RING_PACKED, virtq_used_elem } from '../../abi/virtio-ring.ts';
import { PeerError } from '../../host/errors.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { hasFeature } from '../../virtio/features.ts';
import { placeVirtqueue } from '../../virtio/queue/create-virtqueue.ts';
import type { QueueConfig, VringState } from '../../virtio/queue/virtqueue.ts';
import { headsInFlight } from './in-flight.ts';
import { FRESH_PACKED } from './rings.ts';

/** `struct virtq_avail` and `virtq_used`: flags, index, then the entries (virtio 1.3 §2.7.6, §2.7.8). */
const INDEX = 2;
const ENTRIES = 4;

/** A split ring as it lies in guest memory. */
interface Rings {
  readonly size: number;
  /** Both wrap at 2^16. */
  readonly availIndex: number;
  readonly usedIndex: number;
  head(position: number): number;
  usedHead(position: number): number;
  setHead(position: number, head: number): void;
}

/**
 * Where the next backend is to go on. Without a record, buffers that are in flight are made
 * available anew at the places that the backend will look at: no driver writes to those before
 * they are used, and none reads them.
 * @param recorded the backend finds what is in flight by its record
 * @throws PeerError when nobody can know what is in flight
 */
export function recoverRing(
  memory: GuestMemory,
  config: QueueConfig,
  features: bigint,
  recorded: boolean,
): VringState {
  if (hasFeature(features, VIRTIO_F_RING_PACKED)) {
    // The record tells where the ring stands, too: the specification leaves its base open.
    if (recorded) return FRESH_PACKED;
    throw unknown(config, 'a packed ring does not tell where it stands');
  }
  const rings = openRings(memory, config, features);
  const { usedIndex } = rings;
  if (!recorded) {
    const heads = inFlight(rings);
    if (heads === undefined) {
      throw unknown(config, 'it completed requests out of order, and kept no record of the others');
    }
    for (const [i, head] of heads.entries()) rings.setHead((usedIndex + i) & 0xffff, head);
  }
  return { nextAvail: usedIndex, nextUsed: usedIndex };
}

/** The buffers in flight, the oldest first; undefined when the rings leave that open. */
function inFlight({ size, availIndex, usedIndex, head, usedHead }: Rings): number[] | undefined {
  const count = (availIndex - usedIndex) & 0xffff;
  if (count > size) return undefined;
  // Indices start at 0, and wrap to it: before an entry 0 there may be none.
  const seen = (index: number): number => (usedIndex <= availIndex ? Math.min(index, size) : size);
  const usedLength = seen(usedIndex);
  const availLength = seen(availIndex);
  const usedStart = usedIndex - usedLength;
  const availStart = usedIndex + count - availLength;
  return headsInFlight({
    size,
    availStart,
    avail: Array.from({ length: availLength }, (_, i) => head(availStart + i)),
    usedStart,
    used: Array.from({ length: usedLength }, (_, i) => usedHead(usedStart + i)),
  });
}

function openRings(memory: GuestMemory, config: QueueConfig, features: bigint): Rings {
  const { size } = config;
  const { driver, device } = placeVirtqueue(memory, config, features);
  const entry = (position: number): number => driver + ENTRIES + 2 * (position & (size - 1));
  return {
    size,
    availIndex: memory.readU16(driver + INDEX),
    usedIndex: memory.readU16(device + INDEX),
    head: (position) => memory.readU16(entry(position)),
    usedHead: (position) =>
      memory.readU32(device + ENTRIES + virtq_used_elem.size * (position & (size - 1))),
    setHead: (position, head) => memory.writeU16(entry(position), head),
  };
}

function unknown({ index }: QueueConfig, why: string): PeerError {
  return new PeerError(
    'E_VHOST_USER_LOST',
    `the backend is gone with requests of queue ${index} in flight that cannot be told: ${why}; reset the device`,
  );
}
