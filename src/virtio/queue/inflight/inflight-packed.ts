/** The contents of a packed queue's record when the queue starts (vhost-user.rst, "When reconnecting"). */
import { DescStatePacked, QueueRegionPacked } from '../../../abi/vhost-user.ts';
import { VIRTQ_DESC_F_AVAIL, VIRTQ_DESC_F_USED } from '../../../abi/virtio-ring.ts';
import type { AreaWindow } from '../ring-windows.ts';
import type { QueueConfig, VringState } from '../virtqueue.ts';
import { badRecord, type InflightRegion } from './inflight-region.ts';

/** Bit 15 of a position: the wrap counter. */
const WRAP = 0x8000;
const LAP_FLAGS = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED;
/** A descriptor's flags in the ring, in 16-bit words. */
const DESC_FLAGS = 7;

/** Where the fields of a region lie, in words of their own width. */
export const PACKED = {
  freeHead: QueueRegionPacked.free_head.offset / 2,
  oldFreeHead: QueueRegionPacked.old_free_head.offset / 2,
  usedIdx: QueueRegionPacked.used_idx.offset / 2,
  oldUsedIdx: QueueRegionPacked.old_used_idx.offset / 2,
  usedWrap: QueueRegionPacked.used_wrap_counter.offset,
  oldUsedWrap: QueueRegionPacked.old_used_wrap_counter.offset,
  /** Of `used_idx` to `old_used_wrap_counter`, in words of 8 bytes. */
  positions: QueueRegionPacked.used_idx.offset / 8,
  head: QueueRegionPacked.size,
  entry: DescStatePacked.size,
} as const;

/** A list of descriptors that is in flight. */
export interface InflightList {
  /** The entries of its descriptors. */
  readonly entries: readonly number[];
  readonly counter: number;
}

/** The content of a record. */
export interface PackedRecovery {
  /** In flight, the oldest first. */
  readonly lists: readonly InflightList[];
  readonly state: VringState;
  /** Above that of all others. */
  readonly counter: number;
}

/**
 * Takes over a region that an earlier backend left, or initializes one.
 * @param ring the descriptor ring
 * @throws PeerError when no backend can have left it
 */
export function recoverPacked(
  region: InflightRegion,
  { size, state }: QueueConfig,
  ring: AreaWindow,
): PackedRecovery {
  const fresh = state ?? { nextAvail: WRAP, nextUsed: WRAP };
  if (!region.isWritten) {
    initialize(region, fresh.nextUsed);
    return { lists: [], state: fresh, counter: 0 };
  }
  const { bytes, halves } = region;
  settleLastBatch(region, size, ring);
  const isFree = freeEntries(region);
  const lists: InflightList[] = [];
  const seen = isFree.slice();
  for (let entry = 0; entry < region.entries; entry++) {
    const inflight = PACKED.head + PACKED.entry * entry;
    if (isFree[entry] === 1) bytes[inflight] = 0;
    else if (bytes[inflight] !== 0) lists.push(readList(region, entry, seen));
  }
  const slots = lists.reduce((sum, { entries }) => sum + entries.length, 0);
  if (slots > size) throw badRecord(`${slots} descriptors are in flight, of ${size}`);
  lists.sort((a, b) => a.counter - b.counter);
  const counter = (lists.at(-1)?.counter ?? -1) + 1;
  if (counter > 2 ** 52) throw badRecord('more buffers were taken than time allows');
  const place = halves[PACKED.oldUsedIdx] as number;
  const wrap = bytes[PACKED.oldUsedWrap] === 0 ? 0 : WRAP;
  unmarkUsed(ring, size, place, wrap, slots);
  const nextAvail =
    place + slots < size ? (place + slots) | wrap : (place + slots - size) | (wrap ^ WRAP);
  return { lists, state: { nextAvail, nextUsed: place | wrap }, counter };
}

function initialize(region: InflightRegion, nextUsed: number): void {
  const { bytes, halves } = region;
  region.clear();
  for (let entry = 0; entry < region.entries; entry++) {
    halves[(PACKED.head + PACKED.entry * entry + DescStatePacked.next.offset) / 2] = entry + 1;
  }
  const place = nextUsed & ~WRAP;
  const wrap = nextUsed >>> 15;
  halves[PACKED.usedIdx] = place;
  halves[PACKED.oldUsedIdx] = place;
  bytes[PACKED.usedWrap] = wrap;
  bytes[PACKED.oldUsedWrap] = wrap;
  region.setWritten();
}

/**
 * Completes or undoes the last batch of used buffers, as the driver sees it. A crash on the way
 * leaves a record that this handles again.
 */
function settleLastBatch(
  { bytes, halves, doubles }: InflightRegion,
  size: number,
  ring: AreaWindow,
): void {
  const before = halves[PACKED.oldUsedIdx] as number;
  const now = halves[PACKED.usedIdx] as number;
  if (before >= size || now >= size) {
    throw badRecord(`the ring of ${size} was at ${before}, then at ${now}`);
  }
  const wrapBefore = bytes[PACKED.oldUsedWrap] === 0 ? 0 : 1;
  const wrapNow = bytes[PACKED.usedWrap] === 0 ? 0 : 1;
  const flags = Atomics.load(ring.halves, before * 8 + DESC_FLAGS) & LAP_FLAGS;
  // A whole lap at once changes the wrap counter alone.
  const isMoved = before !== now || wrapBefore !== wrapNow;
  if (isMoved && flags !== availableFlags(wrapBefore)) {
    halves[PACKED.oldFreeHead] = halves[PACKED.freeHead] as number;
    doubles[PACKED.positions] = usedPositions(now, wrapNow, now, wrapNow);
  } else {
    halves[PACKED.freeHead] = halves[PACKED.oldFreeHead] as number;
    doubles[PACKED.positions] = usedPositions(before, wrapBefore, before, wrapBefore);
  }
}

const positions = new Float64Array(1);
const positionHalves = new Uint16Array(positions.buffer);

/**
 * The ring's current and previous positions, for one store: at no moment may half of a position be
 * an old one. The bits are those of a tiny double, which keeps them.
 */
export function usedPositions(
  used: number,
  wrap: number,
  oldUsed: number,
  oldWrap: number,
): number {
  positionHalves[0] = used;
  positionHalves[1] = oldUsed;
  positionHalves[2] = wrap | (oldWrap << 8);
  return positions[0] as number;
}

/** Which entries are free. @throws PeerError when their list has no end */
function freeEntries({ halves, entries }: InflightRegion): Uint8Array {
  const isFree = new Uint8Array(entries);
  let entry = halves[PACKED.oldFreeHead] as number;
  while (entry < entries) {
    if (isFree[entry] === 1) throw badRecord(`its list of free entries meets ${entry} twice`);
    isFree[entry] = 1;
    entry = halves[
      (PACKED.head + PACKED.entry * entry + DescStatePacked.next.offset) / 2
    ] as number;
  }
  return isFree;
}

/** @param seen entries that belong to a list; marked @throws PeerError */
function readList(region: InflightRegion, head: number, seen: Uint8Array): InflightList {
  const { halves, words } = region;
  const half = (entry: number, { offset }: { readonly offset: number }): number =>
    halves[(PACKED.head + PACKED.entry * entry + offset) / 2] as number;
  const count = half(head, DescStatePacked.num);
  const entries: number[] = [];
  for (let entry = head; entries.length < count; entry = half(entry, DescStatePacked.next)) {
    if (entry >= region.entries || seen[entry] === 1) {
      throw badRecord(`the list in flight at ${head} leads to ${entry}, which is not its own`);
    }
    seen[entry] = 1;
    entries.push(entry);
  }
  const last = half(head, DescStatePacked.last);
  if (entries.at(-1) !== last)
    throw badRecord(`the list in flight at ${head} does not end at ${last}`);
  const at = (PACKED.head + PACKED.entry * head + DescStatePacked.counter.offset) / 4;
  return { entries, counter: (words[at + 1] as number) * 2 ** 32 + (words[at] as number) };
}

/**
 * Undoes what a batch wrote behind its first descriptor, whose flags it crashed before writing:
 * the driver would take these for used as soon as the first one is.
 */
function unmarkUsed(
  { halves }: AreaWindow,
  size: number,
  first: number,
  firstWrap: number,
  slots: number,
): void {
  let place = first;
  let wrap = firstWrap === 0 ? 0 : 1;
  for (let i = 0; i < slots; i++) {
    const at = place * 8 + DESC_FLAGS;
    const flags = halves[at] as number;
    if ((flags & LAP_FLAGS) === (wrap === 0 ? 0 : LAP_FLAGS)) {
      halves[at] = (flags & ~LAP_FLAGS) | availableFlags(wrap);
    }
    if (++place < size) continue;
    place = 0;
    wrap ^= 1;
  }
}

/** virtio 1.3 §2.8.1. */
const availableFlags = (wrap: number): number =>
  wrap === 0 ? VIRTQ_DESC_F_USED : VIRTQ_DESC_F_AVAIL;
