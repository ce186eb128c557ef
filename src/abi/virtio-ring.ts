/** virtio 1.3 §2.7 (split) and §2.8 (packed) ring structures, and the feature bits of §6. */
import { struct } from './struct.ts';

export const virtq_desc = struct({ addr: 8, len: 4, flags: 2, next: 2 });
export const virtq_used_elem = struct({ id: 4, len: 4 });
export const pvirtq_desc = struct({ addr: 8, len: 4, id: 2, flags: 2 });
export const pvirtq_event_suppress = struct({ desc: 2, flags: 2 });

export const VIRTQ_DESC_F_NEXT = 1;
export const VIRTQ_DESC_F_WRITE = 2;
export const VIRTQ_DESC_F_INDIRECT = 4;
export const VIRTQ_USED_F_NO_NOTIFY = 1;
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1;
export const VIRTQ_DESC_F_AVAIL = 1 << 7;
export const VIRTQ_DESC_F_USED = 1 << 15;
export const RING_EVENT_FLAGS_ENABLE = 0;
export const RING_EVENT_FLAGS_DISABLE = 1;
export const RING_EVENT_FLAGS_DESC = 2;

/** Feature bit numbers, virtio 1.3 §6. */
export const VIRTIO_F_INDIRECT_DESC = 28;
export const VIRTIO_F_EVENT_IDX = 29;
export const VIRTIO_F_VERSION_1 = 32;
export const VIRTIO_F_ACCESS_PLATFORM = 33;
export const VIRTIO_F_RING_PACKED = 34;
export const VIRTIO_F_IN_ORDER = 35;
export const VIRTIO_F_ORDER_PLATFORM = 36;
export const VIRTIO_F_SR_IOV = 37;
export const VIRTIO_F_NOTIFICATION_DATA = 38;
export const VIRTIO_F_NOTIF_CONFIG_DATA = 39;
export const VIRTIO_F_RING_RESET = 40;

/** A set of feature bits, which may be those of a device too, for set-up code; hot code keeps booleans. */
export function featureSet(...bits: number[]): bigint {
  return bits.reduce((set, bit) => set | (1n << BigInt(bit)), 0n);
}

/** True when a bit number is in the set. */
export function hasFeature(set: bigint, bit: number): boolean {
  return ((set >> BigInt(bit)) & 1n) === 1n;
}
