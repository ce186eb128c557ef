/** A network device's control queue (virtio 1.3 §5.1.6.5): filters, MAC address, queue pairs, offloads. */
import * as net from '../../../abi/virtio-net.ts';
import { hasFeature } from '../../../abi/virtio-ring.ts';
import { type ActiveQueue, UNDO_POP } from '../../active-queue.ts';
import type { HandlerContext } from '../../device.ts';
import type { DescriptorChain } from '../../queue/descriptor-chain.ts';
import { macNumber, type ReceiveFilter } from './net-filter.ts';

/** Commands between two checks of the thread's other events. */
const BUDGET = 16;
/** The longest command: a driver with more addresses than fit asks for all packets instead. */
const MAX_COMMAND = 64 * 1024;
const HEADER = net.virtio_net_ctrl_hdr.size;
const MAC_LENGTH = 6;

/** What the commands change besides the filter. Each returns false when it is not possible. */
export interface NetControls {
  setPairs(pairs: number): boolean;
  /** @param features the VIRTIO_NET_F_GUEST_* bits that stay on */
  setGuestOffloads(features: bigint): boolean;
  setMac(mac: Uint8Array): boolean;
}

/** From one activation to its end. */
export class ControlQueue {
  readonly #queue: ActiveQueue;
  readonly #context: HandlerContext;
  readonly #filter: ReceiveFilter;
  readonly #controls: NetControls;
  readonly #bytes = new Uint8Array(MAX_COMMAND + 1);
  readonly #ack = new Uint8Array(1);

  constructor(
    queue: ActiveQueue,
    context: HandlerContext,
    filter: ReceiveFilter,
    controls: NetControls,
  ) {
    this.#queue = queue;
    this.#context = context;
    this.#filter = filter;
    this.#controls = controls;
  }

  run(): void {
    this.#queue.serve(BUDGET, (chain) => this.#answer(chain));
  }

  #answer(chain: DescriptorChain): number {
    if (chain.writableLength === 0) {
      this.#context.broken('a control command has no room for its ack (§5.1.6.5)');
      return UNDO_POP;
    }
    const length = chain.read(0, this.#bytes);
    const done = length <= MAX_COMMAND && this.#command(this.#bytes.subarray(0, length));
    this.#ack[0] = done ? net.VIRTIO_NET_OK : net.VIRTIO_NET_ERR;
    return chain.write(0, this.#ack);
  }

  /** Carries out one command. Returns false when it is unknown, or was not negotiated. */
  #command(bytes: Uint8Array): boolean {
    if (bytes.length < HEADER) return false;
    const command = bytes[net.virtio_net_ctrl_hdr.command.offset] as number;
    const data = bytes.subarray(HEADER);
    switch (bytes[net.virtio_net_ctrl_hdr.class.offset]) {
      case net.VIRTIO_NET_CTRL_RX:
        return this.#receiveMode(command, data);
      case net.VIRTIO_NET_CTRL_MAC:
        if (command === net.VIRTIO_NET_CTRL_MAC_TABLE_SET) return this.#macTable(data);
        return command === net.VIRTIO_NET_CTRL_MAC_ADDR_SET && this.#macAddress(data);
      case net.VIRTIO_NET_CTRL_VLAN:
        return this.#vlan(command, data);
      case net.VIRTIO_NET_CTRL_MQ:
        if (!this.#has(net.VIRTIO_NET_F_MQ) || data.length !== 2) return false;
        if (command !== net.VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) return false;
        return this.#controls.setPairs(le16(data));
      case net.VIRTIO_NET_CTRL_GUEST_OFFLOADS:
        if (!this.#has(net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) || data.length !== 8) return false;
        if (command !== net.VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET) return false;
        return this.#controls.setGuestOffloads(le64(data));
      default:
        return false;
    }
  }

  #receiveMode(command: number, data: Uint8Array): boolean {
    const needs =
      command <= net.VIRTIO_NET_CTRL_RX_ALLMULTI
        ? net.VIRTIO_NET_F_CTRL_RX
        : net.VIRTIO_NET_F_CTRL_RX_EXTRA;
    if (!this.#has(needs) || data.length !== 1) return false;
    const filter = this.#filter;
    const on = data[0] !== 0;
    switch (command) {
      case net.VIRTIO_NET_CTRL_RX_PROMISC:
        filter.promiscuous = on;
        return true;
      case net.VIRTIO_NET_CTRL_RX_ALLMULTI:
        filter.allMulticast = on;
        return true;
      case net.VIRTIO_NET_CTRL_RX_ALLUNI:
        filter.allUnicast = on;
        return true;
      case net.VIRTIO_NET_CTRL_RX_NOMULTI:
        filter.noMulticast = on;
        return true;
      case net.VIRTIO_NET_CTRL_RX_NOUNI:
        filter.noUnicast = on;
        return true;
      case net.VIRTIO_NET_CTRL_RX_NOBCAST:
        filter.noBroadcast = on;
        return true;
      default:
        return false;
    }
  }

  #macTable(data: Uint8Array): boolean {
    if (!this.#has(net.VIRTIO_NET_F_CTRL_RX)) return false;
    const unicast = macList(data);
    const multicast = unicast === null ? null : macList(data.subarray(unicast.length));
    if (unicast === null || multicast === null) return false;
    if (unicast.length + multicast.length !== data.length) return false;
    this.#filter.unicast = unicast.macs;
    this.#filter.multicast = multicast.macs;
    return true;
  }

  #macAddress(data: Uint8Array): boolean {
    if (!this.#has(net.VIRTIO_NET_F_CTRL_MAC_ADDR) || data.length !== MAC_LENGTH) return false;
    this.#filter.mac = macNumber(data);
    return this.#controls.setMac(data.slice());
  }

  #vlan(command: number, data: Uint8Array): boolean {
    if (!this.#has(net.VIRTIO_NET_F_CTRL_VLAN) || data.length !== 2) return false;
    const adds = command === net.VIRTIO_NET_CTRL_VLAN_ADD;
    if (!adds && command !== net.VIRTIO_NET_CTRL_VLAN_DEL) return false;
    return this.#filter.setVlan(le16(data), adds);
  }

  #has(feature: number): boolean {
    return hasFeature(this.#context.features, feature);
  }
}

/** `struct virtio_net_ctrl_mac` at the start of the bytes, with its length; null when it is cut off. */
function macList(data: Uint8Array): { macs: Set<number>; length: number } | null {
  if (data.length < 4) return null;
  const entries = le16(data) + le16(data.subarray(2)) * 0x1_0000;
  const length = 4 + entries * MAC_LENGTH;
  if (length > data.length) return null;
  const macs = new Set<number>();
  for (let at = 4; at < length; at += MAC_LENGTH) macs.add(macNumber(data, at));
  return { macs, length };
}

function le16(bytes: Uint8Array): number {
  return (bytes[0] ?? 0) | ((bytes[1] ?? 0) << 8);
}

function le64(bytes: Uint8Array): bigint {
  return new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true);
}
