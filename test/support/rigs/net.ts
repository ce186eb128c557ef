/** A network device's data half with queues that the test drives, on a packet socket. */
import {
  VIRTIO_NET_F_CTRL_MAC_ADDR,
  VIRTIO_NET_F_CTRL_RX,
  VIRTIO_NET_F_CTRL_RX_EXTRA,
  VIRTIO_NET_F_CTRL_VLAN,
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_OK,
} from '../../../src/abi/virtio-net.ts';
import {
  featureSet,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import type { CompletedBuffer } from '../../../src/testing/driver-queue.ts';
import { DeviceRig } from '../../../src/testing/index.ts';
import {
  createHandler,
  type NetHandlerOptions,
} from '../../../src/virtio/device/net/net-handler.ts';
import type { QueueHandler } from '../../../src/virtio/device.ts';
import { FaultyTapQueue, PacketPair } from '../fakes/tap.ts';

export const RX = 0;
export const TX = 1;
export const CONTROL = 2;
export const HEADER_SIZE = 12;
/** 52:54:00:12:34:56 */
export const OWN_MAC = 0x5254_0012_3456;

const CONTROL_FEATURES = featureSet(
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_CTRL_RX,
  VIRTIO_NET_F_CTRL_RX_EXTRA,
  VIRTIO_NET_F_CTRL_VLAN,
  VIRTIO_NET_F_CTRL_MAC_ADDR,
);

/** Each way that queues can be negotiated. */
export const RINGS: Readonly<Record<string, bigint>> = {
  split: 0n,
  'split with indirect and event idx': featureSet(VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX),
  'split in order': featureSet(VIRTIO_F_IN_ORDER),
  packed: featureSet(VIRTIO_F_RING_PACKED),
  'packed with everything': featureSet(
    VIRTIO_F_RING_PACKED,
    VIRTIO_F_INDIRECT_DESC,
    VIRTIO_F_EVENT_IDX,
    VIRTIO_F_IN_ORDER,
  ),
};

/** What to negotiate. */
export interface NetRigOptions {
  readonly ring?: bigint;
  readonly mergeable?: boolean;
  readonly features?: bigint;
  readonly size?: number;
}

/** One queue pair and a control queue. */
export class NetRig implements Disposable {
  readonly rig = new DeviceRig();
  readonly wire = new PacketPair();
  readonly tap = new FaultyTapQueue(this.wire.fd);
  readonly features: bigint;
  readonly handler: QueueHandler;

  constructor(options: NetRigOptions = {}) {
    const { ring = 0n, mergeable = false, features = 0n, size = 64 } = options;
    const base = featureSet(VIRTIO_F_VERSION_1, ...(mergeable ? [VIRTIO_NET_F_MRG_RXBUF] : []));
    this.features = base | ring | features | CONTROL_FEATURES;
    const handler: NetHandlerOptions = { fds: [this.wire.fd], mac: OWN_MAC, mtu: 1500 };
    this.handler = createHandler(handler, () => this.tap);
    this.rig.start(this.handler, this.features, [size, size, size]);
  }

  /** Adds receive buffers of these lengths, one segment each, and notifies the device. */
  addBuffers(...lengths: number[]): void {
    for (const length of lengths) this.rig.queue(RX).add({ writable: [length] });
    this.rig.kick(RX);
  }

  /** Receive buffers that were used, after the device has handled what is ready. */
  received(): CompletedBuffer[] {
    while (this.rig.pump() > 0);
    return this.rig.queue(RX).completed();
  }

  /** Sends a control command. Returns its ack. */
  control(commandClass: number, command: number, data: Uint8Array): number {
    const queue = this.rig.queue(CONTROL);
    queue.add({ readable: [Uint8Array.of(commandClass, command), data], writable: [1] });
    this.rig.kick(CONTROL);
    while (this.rig.pump() > 0);
    const [done] = queue.completed();
    return done?.data[0] ?? -1;
  }

  /** The same, and it must succeed. */
  mustControl(commandClass: number, command: number, ...data: number[]): void {
    const ack = this.control(commandClass, command, Uint8Array.from(data));
    if (ack !== VIRTIO_NET_OK) throw new Error(`command ${commandClass}/${command}: ack ${ack}`);
  }

  [Symbol.dispose](): void {
    this.rig[Symbol.dispose]();
    this.wire[Symbol.dispose]();
  }
}

/** A packet with its header: all zeroes, then bytes that show their position. */
export function packet(length: number, seed = 0): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i < HEADER_SIZE ? 0 : (i * 7 + seed) & 0xff));
}

/** An Ethernet frame with its header. */
export function frame(destination: number, vlan = -1): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE + 60);
  const view = new DataView(bytes.buffer);
  view.setUint16(HEADER_SIZE, Math.floor(destination / 2 ** 32));
  view.setUint32(HEADER_SIZE + 2, destination % 2 ** 32);
  view.setUint16(HEADER_SIZE + 12, vlan < 0 ? 0x0800 : 0x8100);
  if (vlan >= 0) view.setUint16(HEADER_SIZE + 14, 0xe000 | vlan);
  return bytes;
}

/** What the driver sees of a packet: the same, but for num_buffers. */
export function withBuffers(bytes: Uint8Array, buffers: number): Uint8Array {
  const copy = bytes.slice();
  new DataView(copy.buffer).setUint16(10, buffers, true);
  return copy;
}

/** The bytes of several buffers in a row. */
export function joined(buffers: readonly CompletedBuffer[]): Uint8Array {
  return Uint8Array.from(buffers.flatMap(({ data }) => [...data]));
}
