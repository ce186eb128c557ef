/** Network device on a tap (virtio 1.3 §5.1): the control half. */
import * as net from '../../../abi/virtio-net.ts';
import { featureSet } from '../../../abi/virtio-ring.ts';
import { formatMac, generateMac, parseMac, Tap } from '../../../backend/tap.ts';
import type { BackendFacts, DeviceHost, QueueSpec, VhostSpec, VirtioDevice } from '../../device.ts';
import { macNumber } from './net-filter.ts';
import type { MacChanged, NetHandlerOptions } from './net-handler.ts';
import { OFFLOAD_DEPENDENCIES, offloadFeatures } from './net-offloads.ts';

/** PCI class 02.00.00, Ethernet controller. */
export const PCI_CLASS_ETHERNET = 0x02_0000;
/** A full receive ring of pages holds eight of the largest packets. */
const DATA_QUEUE_SIZE = 256;
const CONTROL_QUEUE_SIZE = 64;
/** The speed that a Linux tap reports, Mbit/s. */
const SPEED_MBIT = 10_000;
const FULL_DUPLEX = 1;

/** A network interface of a machine. */
export interface NetDeviceOptions {
  /** For messages and the thread: `net0`. */
  readonly name: string;
  /** Used when it exists, else created. Default: created, with a free name. */
  readonly tap?: string;
  /** `52:54:00:12:34:56`. Default: locally administered, from the tap's name. */
  readonly mac?: string;
  /** Queue pairs, 1 to 8. Default 1. */
  readonly queues?: number;
  /** For the host's side of a tap created here: `10.0.2.1/24`. */
  readonly hostAddress?: string;
  /** Bytes, 68 to 65521. Default: the tap's own, 1500 when created here. */
  readonly mtu?: number;
  /** Offer checksum and segmentation offloads. Default true. */
  readonly offloads?: boolean;
  /** Offer VIRTIO_NET_F_MRG_RXBUF. Default true. */
  readonly mergeableBuffers?: boolean;
  /** Descriptors of each data queue. Default 256. */
  readonly queueSize?: number;
}

/** A machine's operations on its network interface. */
export interface NetDevice extends VirtioDevice {
  /** The tap's name on the host. */
  readonly tapName: string;
  /** The device's address at the start, `52:54:00:12:34:56`. */
  readonly mac: string;
  /** Plugs in or unplugs the cable, on both sides. */
  setLink(up: boolean): void;
}

/** True for what `createNetDevice` made. */
export function isNetDevice(device: VirtioDevice): device is NetDevice {
  return device instanceof TapNetDevice;
}

/** @throws UsageError when the options or the tap cannot be used, HostError when the host fails */
export function createNetDevice(options: NetDeviceOptions): NetDevice {
  const { queues = 1, mtu } = options;
  const mac = options.mac === undefined ? null : parseMac(options.mac);
  const tap = new Tap({
    queues,
    ...(options.tap === undefined ? {} : { name: options.tap }),
    ...(options.hostAddress === undefined ? {} : { hostAddress: options.hostAddress }),
    ...(mtu === undefined ? {} : { mtu }),
  });
  return new TapNetDevice(tap, options, queues, mac ?? generateMac(tap.name));
}

class TapNetDevice implements NetDevice {
  readonly name: string;
  readonly deviceId = net.VIRTIO_ID_NET;
  readonly pciClass = PCI_CLASS_ETHERNET;
  readonly features: bigint;
  readonly featureDependencies = [
    ...OFFLOAD_DEPENDENCIES,
    // §5.1.3.1
    ...[
      net.VIRTIO_NET_F_CTRL_RX,
      net.VIRTIO_NET_F_CTRL_VLAN,
      net.VIRTIO_NET_F_MQ,
      net.VIRTIO_NET_F_CTRL_MAC_ADDR,
    ].map((bit) => [bit, net.VIRTIO_NET_F_CTRL_VQ] as const),
  ];
  readonly queues: readonly QueueSpec[];
  readonly config: Uint8Array;
  readonly thread: VirtioDevice['thread'];
  readonly vhost: VhostSpec;
  readonly #tap: Tap;
  readonly #mac: Uint8Array;
  #host: DeviceHost | null = null;

  constructor(tap: Tap, options: NetDeviceOptions, pairs: number, mac: Uint8Array) {
    const mtu = options.mtu ?? tap.mtu;
    this.#tap = tap;
    this.#mac = mac;
    this.name = options.name;
    this.features =
      featureSet(
        net.VIRTIO_NET_F_MAC,
        net.VIRTIO_NET_F_STATUS,
        net.VIRTIO_NET_F_MTU,
        net.VIRTIO_NET_F_SPEED_DUPLEX,
        net.VIRTIO_NET_F_CTRL_VQ,
        net.VIRTIO_NET_F_CTRL_RX,
        net.VIRTIO_NET_F_CTRL_RX_EXTRA,
        net.VIRTIO_NET_F_CTRL_VLAN,
        net.VIRTIO_NET_F_CTRL_MAC_ADDR,
        ...(pairs > 1 ? [net.VIRTIO_NET_F_MQ] : []),
        ...((options.mergeableBuffers ?? true) ? [net.VIRTIO_NET_F_MRG_RXBUF] : []),
      ) |
      ((options.offloads ?? true)
        ? offloadFeatures(tap.offloads) | featureSet(net.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS)
        : 0n);
    this.queues = queueSpecs(pairs, options.queueSize ?? DATA_QUEUE_SIZE);
    this.config = initialConfig(mac, pairs, mtu);
    this.vhost = { kind: 'net', taps: tap.fds };
    this.thread = {
      kind: 'worker',
      module: new URL('./net-handler.js', import.meta.url).href,
      options: {
        fds: tap.fds,
        mac: macNumber(mac),
        mtu,
      } satisfies NetHandlerOptions,
    };
  }

  get backend(): BackendFacts {
    return { name: `tap ${this.#tap.name}`, calls: 'readv, writev' };
  }

  get tapName(): string {
    return this.#tap.name;
  }

  get mac(): string {
    return formatMac(this.#mac);
  }

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  message(message: unknown): void {
    this.#showMac((message as MacChanged).mac);
  }

  reset(): void {
    this.#showMac(this.#mac);
  }

  setLink(up: boolean): void {
    this.#tap.setCarrier(up);
    const status = up ? net.VIRTIO_NET_S_LINK_UP : 0;
    this.#host?.updateConfig((config) =>
      config.setUint16(net.virtio_net_config.status.offset, status, true),
    );
  }

  close(): void {
    this.#tap.close();
  }

  /** §5.1.6.5.2.1: the configuration space shows the address that the driver set. */
  #showMac(mac: Uint8Array): void {
    const shown = this.#host?.readConfig().subarray(0, mac.length);
    if (shown === undefined || Buffer.compare(shown, mac) === 0) return;
    this.#host?.updateConfig((config) => {
      for (const [i, byte] of mac.entries()) config.setUint8(i, byte);
    });
  }
}

/** §5.1.2: receiveq1, transmitq1, ... controlq. */
export function queueSpecs(pairs: number, size: number): QueueSpec[] {
  const specs: QueueSpec[] = [];
  for (let pair = 1; pair <= pairs; pair++) {
    specs.push({ name: `receiveq${pair}`, maxSize: size });
    specs.push({ name: `transmitq${pair}`, maxSize: size });
  }
  specs.push({ name: 'controlq', maxSize: CONTROL_QUEUE_SIZE });
  return specs;
}

/** @param mtu for VIRTIO_NET_F_MTU */
export function initialConfig(mac: Uint8Array, pairs: number, mtu = 0): Uint8Array {
  const config = new Uint8Array(net.virtio_net_config.size);
  const view = new DataView(config.buffer);
  config.set(mac, net.virtio_net_config.mac.offset);
  view.setUint16(net.virtio_net_config.status.offset, net.VIRTIO_NET_S_LINK_UP, true);
  view.setUint16(net.virtio_net_config.max_virtqueue_pairs.offset, pairs, true);
  view.setUint16(net.virtio_net_config.mtu.offset, mtu, true);
  view.setUint32(net.virtio_net_config.speed.offset, SPEED_MBIT, true);
  view.setUint8(net.virtio_net_config.duplex.offset, FULL_DUPLEX);
  return config;
}
