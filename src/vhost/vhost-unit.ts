/** What of a virtio device one vhost device of the kernel serves, by the kind of device. */
import { VHOST_FILE_UNBIND, VHOST_NET_SET_BACKEND } from '../abi/vhost.ts';
import { VIRTIO_NET_F_MRG_RXBUF } from '../abi/virtio-net.ts';
import {
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../abi/virtio-ring.ts';
import type { VhostSpec } from '../virtio/device.ts';
import { featureSet } from '../virtio/features.ts';
import { VhostDevice } from './vhost-device.ts';

/** Ring n of the vhost device is the n-th of `queues`. */
export interface VhostUnit extends Disposable {
  readonly vhost: VhostDevice;
  /** Indices in the virtio device. */
  readonly queues: readonly number[];
  /** Lets the kernel serve the rings, which are set up. @throws HostError */
  run(): void;
  /** Returns when the kernel touches no ring any more, and has no request under way. */
  halt(): void;
}

/**
 * Feature bits that whoever touches rings and packets has to know; all others are between the
 * driver and the device's control half, or the tap.
 */
export const KERNEL_FEATURES: bigint = featureSet(
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_VERSION_1,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_IN_ORDER,
  VIRTIO_NET_F_MRG_RXBUF,
);

/** vhost-net: one queue pair on one queue of a tap. */
class NetUnit implements VhostUnit {
  readonly vhost = VhostDevice.open('/dev/vhost-net', 'vhost_net');
  readonly queues: readonly number[];
  readonly #tap: number;

  constructor(pair: number, tap: number) {
    this.queues = [2 * pair, 2 * pair + 1];
    this.#tap = tap;
  }

  run(): void {
    this.#setBackend(this.#tap);
  }

  halt(): void {
    this.#setBackend(VHOST_FILE_UNBIND);
  }

  [Symbol.dispose](): void {
    this.vhost[Symbol.dispose]();
  }

  #setBackend(fd: number): void {
    for (const ring of this.queues.keys()) {
      this.vhost.setFile(VHOST_NET_SET_BACKEND, ring, fd, 'VHOST_NET_SET_BACKEND');
    }
  }
}

/** @throws UsageError when this host's kernel cannot, or does not let us */
export function openVhostUnits(spec: VhostSpec): VhostUnit[] {
  const units: VhostUnit[] = [];
  try {
    for (const [pair, tap] of spec.taps.entries()) units.push(new NetUnit(pair, tap));
    return units;
  } catch (error) {
    for (const unit of units) unit[Symbol.dispose]();
    throw error;
  }
}
