/**
 * A snapshot of a virtqueue's areas, for display: read concurrently with the handler or backend,
 * and never written. The driver's values are shown, valid or not.
 */
import * as abi from '../../abi/virtio-ring.ts';
import { PeerError } from '../../host/errors.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { locateRings, type RingOffsets } from './create-virtqueue.ts';
import type { QueueConfig, VringState } from './virtqueue.ts';

/** Entries of each area that a snapshot shows; for larger queues, those around the indices. */
const WINDOW = 256;
/** Larger queues: only the indices show what is in flight. */
const MATCHED_SIZE = 4096;

/** A descriptor of a split queue (virtio 1.3 §2.7.5). */
export interface SplitDescriptor {
  readonly index: number;
  /** Guest physical, hexadecimal: the driver may have written any 64 bits. */
  readonly addr: string;
  readonly len: number;
  readonly flags: number;
  readonly next: number;
}

/** A split queue (§2.7). Indices count up and wrap at 2^16; an entry's slot is its index modulo the size. */
export interface SplitSnapshot {
  readonly format: 'split';
  readonly descriptors: readonly SplitDescriptor[];
  readonly available: {
    readonly flags: number;
    readonly idx: number;
    /** With VIRTIO_F_EVENT_IDX. */
    readonly usedEvent?: number;
    readonly entries: readonly { readonly slot: number; readonly head: number }[];
  };
  readonly used: {
    readonly flags: number;
    readonly idx: number;
    /** With VIRTIO_F_EVENT_IDX. */
    readonly availEvent?: number;
    readonly entries: readonly {
      readonly slot: number;
      readonly id: number;
      readonly len: number;
    }[];
  };
  /** Heads of the chains that were made available and are not used yet, oldest first. */
  readonly inFlight: readonly number[];
  /** The driver need not kick for the next chain (§2.7.10). */
  readonly kicksSuppressed: boolean;
}

/** A descriptor of a packed queue (§2.8.13). */
export interface PackedDescriptor {
  readonly index: number;
  readonly addr: string;
  readonly len: number;
  readonly id: number;
  readonly flags: number;
}

/** An event suppression structure (§2.8.14). */
export interface EventSuppression {
  readonly offset: number;
  readonly wrap: number;
  /** RING_EVENT_FLAGS_* */
  readonly flags: number;
}

/** A packed queue (§2.8). */
export interface PackedSnapshot {
  readonly format: 'packed';
  readonly descriptors: readonly PackedDescriptor[];
  readonly driverEvent: EventSuppression;
  readonly deviceEvent: EventSuppression;
  /** Descriptors that the device can take, from its position on; absent when that is unknown. */
  readonly waiting?: number;
  /** As in `SplitSnapshot` (§2.8.10). */
  readonly kicksSuppressed: boolean;
}

/** The contents of a queue's areas. */
export type RingSnapshot = SplitSnapshot | PackedSnapshot;

/**
 * Reads a queue's areas.
 * @param features all negotiated feature bits
 * @param state the device's position, if known
 * @returns the snapshot, or why the areas cannot be read, in one line
 */
export function snapshotRing(
  memory: GuestMemory,
  config: QueueConfig,
  features: bigint,
  state: VringState | undefined,
): RingSnapshot | string {
  let place: RingOffsets;
  try {
    const { state: _, ...fresh } = config;
    place = locateRings(memory, fresh, features);
  } catch (error) {
    if (error instanceof PeerError) return error.message;
    throw error;
  }
  return abi.hasFeature(features, abi.VIRTIO_F_RING_PACKED)
    ? snapshotPacked(memory, place, config.size, state)
    : snapshotSplit(memory, place, config.size, abi.hasFeature(features, abi.VIRTIO_F_EVENT_IDX));
}

function snapshotSplit(
  memory: GuestMemory,
  place: RingOffsets,
  size: number,
  eventIdx: boolean,
): SplitSnapshot {
  const avail = new DataView(copy(memory, place.driver, 6 + 2 * size));
  const used = new DataView(copy(memory, place.device, 6 + abi.virtq_used_elem.size * size));
  const table = new DataView(copy(memory, place.descriptor, abi.virtq_desc.size * size));
  const head = (slot: number): number => avail.getUint16(4 + 2 * slot, true);
  const usedAt = (slot: number): number => 4 + abi.virtq_used_elem.size * slot;
  const id = (slot: number): number => used.getUint32(usedAt(slot), true);
  const availIdx = avail.getUint16(2, true);
  const usedIdx = used.getUint16(2, true);
  const inFlight = findInFlight({ size, head, id, availIdx, usedIdx });
  const descriptor = (index: number): SplitDescriptor => {
    const at = index * abi.virtq_desc.size;
    return {
      index,
      addr: hex(table.getBigUint64(at, true)),
      len: table.getUint32(at + abi.virtq_desc.len.offset, true),
      flags: table.getUint16(at + abi.virtq_desc.flags.offset, true),
      next: table.getUint16(at + abi.virtq_desc.next.offset, true),
    };
  };
  const heads = slotsBefore(availIdx, size).map((slot) => ({ slot, head: head(slot) }));
  const usedFlags = used.getUint16(0, true);
  const availEvent = used.getUint16(usedAt(size), true);
  const shown =
    size <= WINDOW
      ? all(size)
      : chainMembers(
          [...inFlight, ...heads.map((entry) => entry.head).reverse()],
          size,
          descriptor,
        );
  return {
    format: 'split',
    descriptors: shown.map(descriptor),
    available: {
      flags: avail.getUint16(0, true),
      idx: availIdx,
      ...(eventIdx ? { usedEvent: avail.getUint16(4 + 2 * size, true) } : {}),
      entries: heads,
    },
    used: {
      flags: usedFlags,
      idx: usedIdx,
      ...(eventIdx ? { availEvent } : {}),
      entries: slotsBefore(usedIdx, size).map((slot) => ({
        slot,
        id: id(slot),
        len: used.getUint32(usedAt(slot) + abi.virtq_used_elem.len.offset, true),
      })),
    },
    inFlight: inFlight.slice(0, WINDOW),
    kicksSuppressed: eventIdx
      ? availEvent !== availIdx
      : (usedFlags & abi.VIRTQ_USED_F_NO_NOTIFY) !== 0,
  };
}

interface SplitIndices {
  readonly size: number;
  readonly head: (slot: number) => number;
  readonly id: (slot: number) => number;
  readonly availIdx: number;
  readonly usedIdx: number;
}

/**
 * The heads that are in flight. The available ring's last lap held all of them; those that the used ring
 * returned since that lap began are removed. Where that is inconsistent, chains
 * overtook others across a whole lap (or the driver broke the rules): the indices decide then.
 */
function findInFlight({ size, head, id, availIdx, usedIdx }: SplitIndices): number[] {
  const count = (availIdx - usedIdx) & 0xffff;
  if (count === 0 || count > size) return [];
  const slot = (index: number): number => index & (size - 1);
  const between = Array.from({ length: count }, (_, i) => head(slot(usedIdx + i)));
  if (size > MATCHED_SIZE) return between;
  const open = new Map<number, number>();
  for (let i = 0; i < size; i++) {
    const one = head(slot(availIdx + i));
    const times = open.get(one) ?? 0;
    // Moved to the map's end: the order is that of the last time each was made available.
    open.delete(one);
    open.set(one, times + 1);
  }
  for (let i = count; i < size; i++) {
    const one = id(slot(usedIdx + i));
    open.set(one, (open.get(one) ?? 0) - 1);
  }
  const left = [...open].flatMap(([one, times]) => (times > 0 ? [one] : []));
  return left.length === count ? left : between;
}

/** Descriptors of the chains that start with these heads, as far as the window reaches. */
function chainMembers(
  heads: readonly number[],
  size: number,
  descriptor: (index: number) => SplitDescriptor,
): number[] {
  const members = new Set<number>();
  for (const head of heads) {
    let index = head;
    while (index < size && !members.has(index) && members.size < WINDOW) {
      members.add(index);
      const { flags, next } = descriptor(index);
      if ((flags & abi.VIRTQ_DESC_F_NEXT) === 0) break;
      index = next;
    }
  }
  return [...members].sort((a, b) => a - b);
}

function snapshotPacked(
  memory: GuestMemory,
  place: RingOffsets,
  size: number,
  state: VringState | undefined,
): PackedSnapshot {
  const ring = new DataView(copy(memory, place.descriptor, abi.pvirtq_desc.size * size));
  const flagsOf = (index: number): number =>
    ring.getUint16(index * abi.pvirtq_desc.size + abi.pvirtq_desc.flags.offset, true);
  const start = (state?.nextAvail ?? 0) & 0x7fff;
  const shown = size <= WINDOW ? all(size) : around(start, size);
  const waiting = state === undefined ? undefined : waitingSlots(state.nextAvail, size, flagsOf);
  const deviceEvent = eventSuppression(memory, place.device);
  // The driver adds at the device's position as long as nothing waits there.
  const event = deviceEvent.offset | (deviceEvent.wrap << 15);
  const atDriver = waiting === 0 && event === state?.nextAvail;
  return {
    format: 'packed',
    descriptors: shown.map((index) => {
      const at = index * abi.pvirtq_desc.size;
      return {
        index,
        addr: hex(ring.getBigUint64(at, true)),
        len: ring.getUint32(at + abi.pvirtq_desc.len.offset, true),
        id: ring.getUint16(at + abi.pvirtq_desc.id.offset, true),
        flags: flagsOf(index),
      };
    }),
    driverEvent: eventSuppression(memory, place.driver),
    deviceEvent,
    ...(waiting === undefined ? {} : { waiting }),
    kicksSuppressed:
      deviceEvent.flags === abi.RING_EVENT_FLAGS_DISABLE ||
      (deviceEvent.flags === abi.RING_EVENT_FLAGS_DESC && state !== undefined && !atDriver),
  };
}

/** Descriptors from the device's next one on that are available in the driver's lap (§2.8.1). */
function waitingSlots(nextAvail: number, size: number, flagsOf: (index: number) => number): number {
  let index = nextAvail & 0x7fff;
  let wrap = nextAvail >>> 15;
  if (index >= size) return 0;
  for (let count = 0; count < size; count++) {
    const flags = flagsOf(index);
    const available = (flags & abi.VIRTQ_DESC_F_AVAIL) === 0 ? 0 : 1;
    const used = (flags & abi.VIRTQ_DESC_F_USED) === 0 ? 0 : 1;
    if (available !== wrap || used === wrap) return count;
    if (++index === size) {
      index = 0;
      wrap ^= 1;
    }
  }
  return size;
}

function eventSuppression(memory: GuestMemory, offset: number): EventSuppression {
  const desc = memory.readU16(offset + abi.pvirtq_event_suppress.desc.offset);
  return {
    offset: desc & 0x7fff,
    wrap: desc >>> 15,
    flags: memory.readU16(offset + abi.pvirtq_event_suppress.flags.offset) & 3,
  };
}

/** A copy: reading the same bytes twice yields the same values. */
function copy(memory: GuestMemory, offset: number, length: number): ArrayBuffer {
  return new Uint8Array(memory.bytes(offset, length)).buffer;
}

function all(size: number): number[] {
  return Array.from({ length: size }, (_, index) => index);
}

/** A split ring's slots that the snapshot shows: all, or those before an index. Ascending. */
function slotsBefore(idx: number, size: number): number[] {
  if (size <= WINDOW) return all(size);
  const slots = Array.from({ length: WINDOW }, (_, i) => (idx - 1 - i) & (size - 1));
  return slots.sort((a, b) => a - b);
}

function around(index: number, size: number): number[] {
  const first = index - WINDOW / 2 + size;
  const slots = Array.from({ length: WINDOW }, (_, i) => (first + i) % size);
  return slots.sort((a, b) => a - b);
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}
