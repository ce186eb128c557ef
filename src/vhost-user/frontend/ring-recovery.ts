/**
 * Where a ring resumes after its backend is gone. What is in flight shows in the inflight buffer
 * (VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD), or in a split ring itself, unless that is ambiguous.
 */
import { hasFeature, VIRTIO_F_RING_PACKED, virtq_used_elem } from '../../abi/virtio-ring.ts';
import { PeerError } from '../../host/errors.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { locateRings } from '../../virtio/queue/create-virtqueue.ts';
import { FRESH_PACKED, type QueueConfig, type VringState } from '../../virtio/queue/virtqueue.ts';

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
 * Where the next backend resumes. Without an inflight buffer, the buffers in flight are made
 * available again in the entries that the backend reads next: no driver writes to those before
 * they are used, and none reads them.
 * @param recorded the backend uses the inflight buffer
 * @throws PeerError when what is in flight cannot be known
 */
export function recoverRing(
  memory: GuestMemory,
  config: QueueConfig,
  features: bigint,
  recorded: boolean,
): VringState {
  if (hasFeature(features, VIRTIO_F_RING_PACKED)) {
    // The inflight buffer has the ring's indices, too: the specification leaves the base open.
    if (recorded) return FRESH_PACKED;
    throw unknown(config, 'a packed ring does not show where it stopped');
  }
  const rings = openRings(memory, config, features);
  const { usedIndex } = rings;
  if (!recorded) {
    const heads = inFlight(rings);
    if (heads === undefined) {
      throw unknown(config, 'it completed requests out of order, without an inflight buffer');
    }
    for (const [i, head] of heads.entries()) rings.setHead((usedIndex + i) & 0xffff, head);
  }
  return { nextAvail: usedIndex, nextUsed: usedIndex };
}

/** The buffers in flight, the oldest first; undefined when the rings are ambiguous. */
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
  const { driver, device } = locateRings(memory, config, features);
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
    `the backend is gone with unknown requests of queue ${index} in flight: ${why}`,
    'reset the device',
  );
}

/*
 * Which buffers of a split ring are in flight, from the two rings alone.
 *
 * Each ring shows its last entries, as many as fit. What it does not show is when a buffer
 * became available between two uses: `reach(q)`, how many had become available when the q-th was
 * used. Each head becomes available and is used in turn, so that guessing whether its last place in
 * the available ring was used pairs all of its entries, and bounds `reach`: the paired place came
 * before that use, the head's next place after it. `reach` never falls, and is above q. A guess that
 * these bounds rule out is wrong, so the other is right, and bounds `reach` further.
 */

/** The last entries of both rings: heads, the oldest first. */
interface RingHistory {
  /** Position of the first entry; positions count both rings' entries alike. */
  readonly availStart: number;
  readonly avail: readonly number[];
  readonly usedStart: number;
  readonly used: readonly number[];
  /** The most buffers that can be in flight. */
  readonly size: number;
}

/** The places of one head in either ring, the oldest first. */
interface Places {
  readonly avail: number[];
  readonly used: number[];
}

/** Bounds of `reach` at one use: at least, at most. */
type Bound = readonly [use: number, least: number, most: number];

/**
 * The heads that are in flight, in the order in which they became available; undefined when the
 * rings are ambiguous. Limit: a buffer overtaken by a whole ring of others left no trace.
 */
function headsInFlight(history: RingHistory): number[] | undefined {
  const { availStart, avail, usedStart, used } = history;
  const count = availStart + avail.length - (usedStart + used.length);
  const reach = new Reach(history);
  const open = placesOf(history);
  const inFlight = new Set<number>();
  for (let settled = true; settled; ) {
    settled = false;
    for (const [head, places] of open) {
      const lastWasUsed = bounds(places, 0, usedStart);
      const lastIsInFlight = bounds(places, 1, usedStart);
      const canBeUsed = reach.allows(lastWasUsed);
      const canBeInFlight = reach.allows(lastIsInFlight);
      if (canBeUsed && canBeInFlight) continue;
      // Only an invalid ring allows neither.
      if (!canBeUsed && !canBeInFlight) return undefined;
      open.delete(head);
      settled = true;
      if (canBeInFlight) inFlight.add(head);
      reach.narrow(canBeInFlight ? lastIsInFlight : lastWasUsed);
    }
  }
  if (inFlight.size + open.size === count) for (const head of open.keys()) inFlight.add(head);
  if (inFlight.size !== count) return undefined;
  // Each head at its last place.
  const last = new Map(avail.map((head, place) => [head, place]));
  return [...inFlight].sort((a, b) => (last.get(a) ?? 0) - (last.get(b) ?? 0));
}

/**
 * What follows for `reach` if a head's last use is that of its last place but `later`.
 * @param first position of the first use that is seen
 */
function bounds({ avail, used }: Places, later: 0 | 1, first: number): Bound[] {
  const found: Bound[] = [];
  let place = avail.length - 1 - later;
  for (let i = used.length - 1; i >= 0 && place >= -1; i--, place--) {
    const least = place < 0 ? 0 : (avail[place] ?? 0) + 1;
    found.push([used[i] ?? 0, least, avail[place + 1] ?? Number.POSITIVE_INFINITY]);
  }
  // The use of this place came before those that are seen, which so came after it.
  if (place >= 0) found.push([first, (avail[place] ?? 0) + 1, Number.POSITIVE_INFINITY]);
  return found;
}

/** Bounds of how many buffers had become available at each use. */
class Reach {
  readonly #start: number;
  readonly #least: number[];
  readonly #most: number[];

  constructor({ availStart, avail, usedStart, used, size }: RingHistory) {
    const end = availStart + avail.length;
    this.#start = usedStart;
    this.#least = used.map((_, i) => usedStart + i + 1);
    this.#most = used.map((_, i) => Math.min(end, usedStart + i + size));
  }

  allows(bounds: readonly Bound[]): boolean {
    return bounds.every(([use, least, most]) => {
      const at = use - this.#start;
      const from = Math.max(least, this.#least[at] ?? 0);
      return from <= Math.min(most, this.#most[at] ?? Number.POSITIVE_INFINITY);
    });
  }

  narrow(bounds: readonly Bound[]): void {
    const low = this.#least;
    const high = this.#most;
    for (const [use, least, most] of bounds) {
      const at = use - this.#start;
      if (at >= low.length) continue;
      low[at] = Math.max(low[at] ?? 0, least);
      high[at] = Math.min(high[at] ?? 0, most);
    }
    for (let at = 1; at < low.length; at++) low[at] = Math.max(low[at] ?? 0, low[at - 1] ?? 0);
    for (let at = high.length - 2; at >= 0; at--) {
      high[at] = Math.min(high[at] ?? 0, high[at + 1] ?? 0);
    }
  }
}

function placesOf({ availStart, avail, usedStart, used }: RingHistory): Map<number, Places> {
  const all = new Map<number, Places>();
  for (const [i, head] of avail.entries()) {
    const places = all.get(head);
    if (places === undefined) all.set(head, { avail: [availStart + i], used: [] });
    else places.avail.push(availStart + i);
  }
  for (const [i, head] of used.entries()) all.get(head)?.used.push(usedStart + i);
  return all;
}
