/** The queues of a virtio device that one vhost device of the kernel serves, by device type. */
import {
  VHOST_FILE_UNBIND,
  VHOST_NET_SET_BACKEND,
  VHOST_VSOCK_SET_GUEST_CID,
  VHOST_VSOCK_SET_RUNNING,
} from '../abi/vhost.ts';
import { VIRTIO_NET_F_MRG_RXBUF } from '../abi/virtio-net.ts';
import {
  featureSet,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../abi/virtio-ring.ts';
import { CleanupStack, Closeable } from '../host/cleanup-stack.ts';
import { HostError, UsageError } from '../host/errors.ts';
import { NativeMemory } from '../host/native-memory.ts';
import type { VhostSpec } from '../virtio/device.ts';
import { VhostDevice } from './vhost-device.ts';

/** Ring n of the vhost device is the n-th of `queues`. */
export abstract class VhostBackend extends Closeable {
  abstract readonly vhost: VhostDevice;
  /** Indices in the virtio device. */
  abstract readonly queues: readonly number[];
  /** Starts serving the rings, which are set up. @throws HostError */
  abstract run(): void;
  /** Returns once the kernel no longer touches a ring and has no request in flight. */
  abstract halt(): void;

  /** Closes the vhost device. */
  close(): void {
    this.vhost.close();
  }
}

/**
 * Feature bits that concern the user of rings and packets; all others are between the driver
 * and the device's control half, or the tap.
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
class VhostNetBackend extends VhostBackend {
  readonly vhost = VhostDevice.open('/dev/vhost-net', 'vhost_net');
  readonly queues: readonly number[];
  readonly #tap: number;

  constructor(pair: number, tap: number) {
    super();
    this.queues = [2 * pair, 2 * pair + 1];
    this.#tap = tap;
  }

  run(): void {
    this.#setBackend(this.#tap);
  }

  halt(): void {
    this.#setBackend(VHOST_FILE_UNBIND);
  }

  #setBackend(fd: number): void {
    for (const ring of this.queues.keys()) {
      this.vhost.setFile(VHOST_NET_SET_BACKEND, ring, fd, 'VHOST_NET_SET_BACKEND');
    }
  }
}

/**
 * vhost-vsock: the host's end is the kernel's AF_VSOCK sockets. Closing it frees the context ID, which
 * ends all of the guest's connections.
 */
export class VhostVsockBackend extends VhostBackend {
  readonly vhost: VhostDevice;
  /** Receive and transmit queue; the kernel does not serve the event queue. */
  readonly queues: readonly number[] = [0, 1];

  /**
   * @param vhost owned from here on
   * @throws UsageError when another guest of this host has the context ID
   */
  constructor(vhost: VhostDevice, cid: number) {
    super();
    this.vhost = vhost;
    const value = new NativeMemory(8);
    value.view.setBigUint64(0, BigInt(cid), true);
    try {
      vhost.control(VHOST_VSOCK_SET_GUEST_CID, value.address, 'VHOST_VSOCK_SET_GUEST_CID');
    } catch (error) {
      vhost.close();
      if (!(error instanceof HostError) || error.code !== 'EADDRINUSE') throw error;
      throw new UsageError(
        'E_CID',
        `another guest on this host uses context ID ${cid}`,
        'choose another, or use vhost=off',
      );
    }
  }

  run(): void {
    this.#setRunning(1);
  }

  halt(): void {
    this.#setRunning(0);
  }

  #setRunning(running: number): void {
    const value = new NativeMemory(4);
    value.view.setInt32(0, running, true);
    this.vhost.control(VHOST_VSOCK_SET_RUNNING, value.address, 'VHOST_VSOCK_SET_RUNNING');
  }
}

/** @throws UsageError when the host's kernel lacks vhost, or denies access to it */
export function openVhostBackends(spec: VhostSpec): VhostBackend[] {
  if (spec.kind === 'vsock') {
    return [new VhostVsockBackend(VhostDevice.open('/dev/vhost-vsock', 'vhost_vsock'), spec.cid)];
  }
  using stack = new CleanupStack();
  const backends = spec.taps.map((tap, pair) => stack.use(new VhostNetBackend(pair, tap)));
  stack.move();
  return backends;
}
