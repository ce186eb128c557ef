/**
 * Socket device (virtio 1.3 §5.10): stream connections between the guest and unix sockets of the
 * host. Served on the main thread, where the sockets are.
 */
import type { Duplex } from 'node:stream';
import { featureSet } from '../../../abi/virtio-ring.ts';
import * as abi from '../../../abi/virtio-vsock.ts';
import { VsockSockets } from '../../../backend/vsock-sockets.ts';
import type { QueueHandler, QueueSpec, VhostSpec, VirtioDevice } from '../../device.ts';
import type { Patience } from './vsock-connection.ts';
import { QUEUE_SIZE, VsockHandler } from './vsock-handler.ts';
import { MAX_CONNECTIONS, VsockSwitch } from './vsock-switch.ts';

/** Communication controller, other. */
const PCI_CLASS = 0x07_8000;
/** The timeout that Linux gives a peer for the close. An emulated guest may be slow to answer a call. */
const PATIENCE: Patience = { answer: 10_000, close: 8000 };

/** A socket device. */
export interface VsockOptions {
  /** Short name for messages, e.g. `vsock0`. */
  readonly name: string;
  /** The guest's context ID, 3 to 2^32 - 2. */
  readonly cid: number;
  /** Path of the unix socket that is created for programs of the host; absent: none can connect. */
  readonly path?: string;
  /** User ID whose programs the guest may connect to, besides root's and this user's. */
  readonly peerUid?: number;
}

/** Makes a socket device. @throws UsageError when the unix socket cannot be created */
export function createVsockDevice(options: VsockOptions): VirtioDevice {
  return new VsockDevice(options);
}

class VsockDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId: number = abi.VIRTIO_ID_VSOCK;
  readonly pciClass: number = PCI_CLASS;
  readonly features: bigint = featureSet(
    abi.VIRTIO_VSOCK_F_STREAM,
    abi.VIRTIO_VSOCK_F_NO_IMPLIED_STREAM,
  );
  readonly queues: readonly QueueSpec[] = ['rx', 'tx', 'event'].map((name) => ({
    name,
    maxSize: QUEUE_SIZE,
  }));
  readonly config = new Uint8Array(abi.virtio_vsock_config.size);
  readonly thread = { kind: 'main' } as const;
  readonly backend = { name: 'sockets', calls: 'read, write' };
  readonly vhost: VhostSpec;
  readonly #sockets: VsockSockets | undefined;
  readonly #switch: VsockSwitch;

  constructor({ name, cid, path, peerUid }: VsockOptions) {
    this.name = name;
    this.vhost = { kind: 'vsock', cid };
    const { guest_cid } = abi.virtio_vsock_config;
    new DataView(this.config.buffer).setBigUint64(guest_cid.offset, BigInt(cid), true);
    const connect = (stream: Duplex, port: number): void => this.#switch.connectGuest(stream, port);
    this.#sockets =
      path === undefined ? undefined : new VsockSockets(path, MAX_CONNECTIONS, connect, peerUid);
    this.#switch = new VsockSwitch(cid, this.#sockets, PATIENCE);
  }

  createHandler(): QueueHandler {
    return new VsockHandler(this.#switch);
  }

  reset(): void {
    this.#switch.reset();
  }

  close(): void {
    this.#sockets?.close();
    this.#switch.close();
  }
}
