/** Opens a queue that keeps an inflight record, and resumes from the record's contents. */
import { DescStatePacked } from '../../../abi/vhost-user.ts';
import {
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
} from '../../../abi/virtio-ring.ts';
import { InternalError } from '../../../host/errors.ts';
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import { PackedQueue } from '../packed-queue.ts';
import type { AreaWindow, RingFeatures, RingWindows } from '../ring-windows.ts';
import { SplitQueue } from '../split-queue.ts';
import type { QueueConfig, Virtqueue } from '../virtqueue.ts';
import { PACKED, type PackedRecovery, recoverPacked } from './inflight-packed.ts';
import { badRecord, type InflightRegion } from './inflight-region.ts';
import { TrackedPackedQueue } from './tracked-packed-queue.ts';
import type { Leftover } from './tracked-queue.ts';
import { recoverSplit, TrackedSplitQueue } from './tracked-split-queue.ts';

/** The used index, behind the used ring's flags (virtio 1.3 §2.7.8). */
const USED_IDX = 1;
/** Flags of a descriptor that give its type. */
const KIND = VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_WRITE | VIRTQ_DESC_F_INDIRECT;

/**
 * The windows were checked by `createVirtqueue`.
 * @throws PeerError when no backend can have left such a record
 */
export function openTracked(
  memory: GuestMemory,
  config: QueueConfig,
  region: InflightRegion,
  features: RingFeatures,
  windows: RingWindows,
  packed: boolean,
): Virtqueue {
  // Chains held back are used without having been pushed; only the rings show what is in flight.
  if (features.inOrder) throw new InternalError('a queue in order needs no record');
  if (region.entries < config.size) {
    throw badRecord(`it has ${region.entries} entries for queue ${config.index} of ${config.size}`);
  }
  const open = packed ? openPacked : openSplit;
  return open(memory, config, region, features, windows);
}

function openSplit(
  memory: GuestMemory,
  config: QueueConfig,
  region: InflightRegion,
  features: RingFeatures,
  windows: RingWindows,
): Virtqueue {
  const { size } = config;
  const usedIdx = Atomics.load(windows.device.halves, USED_IDX);
  const recovery = recoverSplit(region, config, usedIdx);
  const { heads, state } = recovery;
  const queue = new SplitQueue(memory, { ...config, state }, features, windows);
  if (heads.length === 0) return new TrackedSplitQueue(queue, region, recovery);
  // Our own available ring, with the heads in flight.
  const driver = scratch(6 + 2 * size);
  driver.halves[1] = heads.length;
  driver.halves.set(heads, 2);
  const rings = { descriptor: windows.descriptor, driver, device: scratch(6 + 8 * size) };
  const again = new SplitQueue(memory, fresh(config), plain(features), rings);
  return new TrackedSplitQueue(queue, region, recovery, { count: heads.length, queue: again });
}

function openPacked(
  memory: GuestMemory,
  config: QueueConfig,
  region: InflightRegion,
  features: RingFeatures,
  windows: RingWindows,
): Virtqueue {
  const recovery = recoverPacked(region, config, windows.descriptor);
  const queue = new PackedQueue(memory, { ...config, state: recovery.state }, features, windows);
  const { words } = windows.descriptor;
  const leftover = packedLeftover(memory, config, region, features, recovery);
  return new TrackedPackedQueue(queue, region, words, recovery, leftover);
}

/** Our own descriptor ring, with the lists in flight as they were. */
function packedLeftover(
  memory: GuestMemory,
  config: QueueConfig,
  { words }: InflightRegion,
  features: RingFeatures,
  { lists }: PackedRecovery,
): Leftover | undefined {
  if (lists.length === 0) return undefined;
  const descriptor = scratch(16 * config.size);
  let to = 0;
  for (const { entries } of lists) {
    for (const [i, entry] of entries.entries()) {
      const from = (PACKED.head + PACKED.entry * entry) / 4;
      const idAndFlags = words[from + DescStatePacked.id.offset / 4] as number;
      const isLast = i === entries.length - 1;
      const kind = (idAndFlags >>> 16) & (isLast ? KIND & ~VIRTQ_DESC_F_NEXT : KIND);
      const flags = kind | (isLast ? 0 : VIRTQ_DESC_F_NEXT) | VIRTQ_DESC_F_AVAIL;
      descriptor.words[to] = words[from + DescStatePacked.addr.offset / 4] as number;
      descriptor.words[to + 1] = words[from + DescStatePacked.addr.offset / 4 + 1] as number;
      descriptor.words[to + 2] = words[from + DescStatePacked.len.offset / 4] as number;
      descriptor.words[to + 3] = (idAndFlags & 0xffff) | (flags << 16);
      to += 4;
    }
  }
  const rings = { descriptor, driver: scratch(4), device: scratch(4) };
  const queue = new PackedQueue(memory, fresh(config), plain(features), rings);
  return { count: lists.length, queue };
}

function scratch(bytes: number): AreaWindow {
  const buffer = new SharedArrayBuffer(Math.ceil(bytes / 4) * 4);
  return { halves: new Uint16Array(buffer), words: new Uint32Array(buffer) };
}

function fresh(config: QueueConfig): QueueConfig {
  const { state: _, ...rest } = config;
  return rest;
}

/** No notifications for a queue that has no driver. */
const plain = ({ indirect }: RingFeatures): RingFeatures => ({
  indirect,
  eventIdx: false,
  inOrder: false,
});
