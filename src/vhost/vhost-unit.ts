/** What of a virtio device one vhost device of the kernel serves, by the kind of device. */
import {
  VHOST_FILE_UNBIND,
  VHOST_NET_SET_BACKEND,
  VHOST_VSOCK_SET_GUEST_CID,
  VHOST_VSOCK_SET_RUNNING,
} from '../abi/vhost.ts';
import { VIRTIO_NET_F_MRG_RXBUF } from '../abi/virtio-net.ts';
import {
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../abi/virtio-ring.ts';
import { HostError, UsageError } from '../host/errors.ts';
import { NativeMemory } from '../host/native-memory.ts';
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

/** vhost-vsock: the kernel's own sockets, AF_VSOCK, are the host's end. */
export class VsockUnit implements VhostUnit {
  readonly vhost: VhostDevice;
  /** Receive and transmit queue; the kernel knows no event queue. */
  readonly queues: readonly number[] = [0, 1];

  /**
   * @param vhost owned from here on
   * @throws UsageError when another guest of this host has the context ID
   */
  constructor(vhost: VhostDevice, cid: number) {
    this.vhost = vhost;
    const value = new NativeMemory(8);
    value.view.setBigUint64(0, BigInt(cid), true);
    try {
      vhost.control(VHOST_VSOCK_SET_GUEST_CID, value.address, 'VHOST_VSOCK_SET_GUEST_CID');
    } catch (error) {
      vhost[Symbol.dispose]();
      if (!(error instanceof HostError) || error.code !== 'EADDRINUSE') throw error;
      throw new UsageError(
        'E_CID',
        `another guest of this host has the context ID ${cid}; choose another, or use vhost=off`,
      );
    }
  }

  run(): void {
    this.#setRunning(1);
  }

  halt(): void {
    this.#setRunning(0);
  }

  /** Ends all connections of the guest: its context ID is no more. */
  [Symbol.dispose](): void {
    this.vhost[Symbol.dispose]();
  }

  #setRunning(running: number): void {
    const value = new NativeMemory(4);
    value.view.setInt32(0, running, true);
    this.vhost.control(VHOST_VSOCK_SET_RUNNING, value.address, 'VHOST_VSOCK_SET_RUNNING');
  }
}

/** @throws UsageError when this host's kernel cannot, or does not let us */
export function openVhostUnits(spec: VhostSpec): VhostUnit[] {
  if (spec.kind === 'vsock') {
    return [new VsockUnit(VhostDevice.open('/dev/vhost-vsock', 'vhost_vsock'), spec.cid)];
  }
  const units: VhostUnit[] = [];
  try {
    for (const [pair, tap] of spec.taps.entries()) units.push(new NetUnit(pair, tap));
    return units;
  } catch (error) {
    for (const unit of units) unit[Symbol.dispose]();
    throw error;
  }
}
