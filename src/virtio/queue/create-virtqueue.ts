/** Makes the virtqueue that a driver configured, once its areas are checked. */
import {
  hasFeature,
  pvirtq_desc,
  pvirtq_event_suppress,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  virtq_desc,
  virtq_used_elem,
} from '../../abi/virtio-ring.ts';
import { PeerError } from '../../host/errors.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { InflightRegion } from './inflight/inflight-region.ts';
import { openTracked } from './inflight/open-tracked.ts';
import { PackedQueue, packedInFlight } from './packed-queue.ts';
import { type AreaRule, openArea, placeArea, type RingFeatures } from './ring-windows.ts';
import { SplitQueue } from './split-queue.ts';
import type { QueueConfig, Virtqueue } from './virtqueue.ts';

const MAX_QUEUE_SIZE = 32768;

interface Rules {
  readonly descriptor: AreaRule;
  readonly driver: AreaRule;
  readonly device: AreaRule;
}

/** §2.7: alignment and size of each part of a split queue. */
function splitRules(size: number): Rules {
  const clause = '§2.7.1';
  return {
    descriptor: {
      name: 'descriptor table',
      alignment: 16,
      length: virtq_desc.size * size,
      written: false,
      clause,
    },
    driver: {
      name: 'available ring',
      alignment: 2,
      length: 6 + 2 * size,
      written: false,
      clause,
    },
    device: {
      name: 'used ring',
      alignment: 4,
      length: 6 + virtq_used_elem.size * size,
      written: true,
      clause,
    },
  };
}

/** §2.8.10.1: the same of a packed queue. */
function packedRules(size: number): Rules {
  const clause = '§2.8.11';
  const length = pvirtq_event_suppress.size;
  return {
    descriptor: {
      name: 'descriptor ring',
      alignment: 16,
      length: pvirtq_desc.size * size,
      written: true,
      clause,
    },
    driver: {
      name: 'driver event suppression area',
      alignment: 4,
      length,
      written: false,
      clause,
    },
    device: {
      name: 'device event suppression area',
      alignment: 4,
      length,
      written: true,
      clause,
    },
  };
}

function checkSize(config: QueueConfig, packed: boolean): void {
  const { size } = config;
  const inRange = Number.isInteger(size) && size > 0 && size <= MAX_QUEUE_SIZE;
  if (inRange && (packed || (size & (size - 1)) === 0)) return;
  const rule = packed ? '1 to 32768 (§2.8)' : 'a power of 2 up to 32768 (§2.7)';
  throw new PeerError('E_QUEUE_SIZE', `queue ${config.index}: size ${size} is not ${rule}`);
}

function checkState(config: QueueConfig, packed: boolean): void {
  const { state, size } = config;
  if (state === undefined) return;
  const { nextAvail, nextUsed } = state;
  const inRange = packed ? Math.max(nextAvail & 0x7fff, nextUsed & 0x7fff) < size : true;
  const inFlight = packed ? packedInFlight(state, size) : (nextAvail - nextUsed) & 0xffff;
  const bits = (nextAvail | nextUsed) >>> 16 === 0;
  if (bits && inRange && inFlight >= 0 && inFlight <= size) return;
  throw new PeerError(
    'E_QUEUE_STATE',
    `queue ${config.index}: cannot continue at available ${nextAvail}, used ${nextUsed} with size ${size}`,
  );
}

function checkedRules(config: QueueConfig, features: bigint): Rules {
  const packed = hasFeature(features, VIRTIO_F_RING_PACKED);
  checkSize(config, packed);
  checkState(config, packed);
  return packed ? packedRules(config.size) : splitRules(config.size);
}

/** Where a queue's areas lie: offsets in guest RAM. */
export interface RingOffsets {
  readonly descriptor: number;
  readonly driver: number;
  readonly device: number;
}

/**
 * Checks a queue as `createVirtqueue` does, for datapaths that serve it by other means.
 * @throws PeerError as `createVirtqueue`
 */
export function locateRings(
  memory: GuestMemory,
  config: QueueConfig,
  features: bigint,
): RingOffsets {
  const { index, descriptorArea, driverArea, deviceArea } = config;
  const rules = checkedRules(config, features);
  return {
    descriptor: placeArea(memory, index, descriptorArea, rules.descriptor),
    driver: placeArea(memory, index, driverArea, rules.driver),
    device: placeArea(memory, index, deviceArea, rules.device),
  };
}

/** What a device uses of its addresses for a queue's own sake. */
export interface RingArea {
  readonly address: number;
  /** Bytes. */
  readonly length: number;
  /** Whether the device writes to it. */
  readonly written: boolean;
}

/** The areas of a queue, wherever they are. @throws PeerError when its size or state is invalid */
export function ringAreas(config: QueueConfig, features: bigint): readonly RingArea[] {
  const { descriptor, driver, device } = checkedRules(config, features);
  return [
    { ...descriptor, address: config.descriptorArea },
    { ...driver, address: config.driverArea },
    { ...device, address: config.deviceArea },
  ];
}

/**
 * Opens a queue in the format that was negotiated.
 * @param features all negotiated feature bits
 * @param region of the record that `config` names, if it does
 * @throws PeerError with the clause, when size, state, placement of the areas or the inflight record
 *   are invalid
 */
export function createVirtqueue(
  memory: GuestMemory,
  config: QueueConfig,
  features: bigint,
  region: InflightRegion | undefined = config.inflight && new InflightRegion(config.inflight),
): Virtqueue {
  const rules = checkedRules(config, features);
  const windows = {
    descriptor: openArea(memory, config.index, config.descriptorArea, rules.descriptor),
    driver: openArea(memory, config.index, config.driverArea, rules.driver),
    device: openArea(memory, config.index, config.deviceArea, rules.device),
  };
  const ring: RingFeatures = {
    indirect: hasFeature(features, VIRTIO_F_INDIRECT_DESC),
    eventIdx: hasFeature(features, VIRTIO_F_EVENT_IDX),
    inOrder: hasFeature(features, VIRTIO_F_IN_ORDER),
  };
  const packed = hasFeature(features, VIRTIO_F_RING_PACKED);
  if (region !== undefined) {
    return openTracked(memory, config, region, ring, windows, packed);
  }
  return packed
    ? new PackedQueue(memory, config, ring, windows)
    : new SplitQueue(memory, config, ring, windows);
}
