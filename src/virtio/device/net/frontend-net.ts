/**
 * A network interface in another process (virtio 1.3 §5.1). Backends serve queue pairs; the
 * control queue, whose only use is to set the number of pairs, is the frontend's.
 */

import * as net from '../../../abi/virtio-net.ts';
import { featureSet, hasFeature } from '../../../abi/virtio-ring.ts';
import { generateMac, parseMac } from '../../../backend/tap.ts';
import type { HandlerContext, QueueHandler } from '../../device.ts';
import type { BackendOffer, DeviceKind } from '../../frontend-device.ts';
import type { VdpaType } from '../vdpa-type.ts';
import { initialConfig, PCI_CLASS_ETHERNET, queueSpecs } from './net.ts';
import { ControlQueue } from './net-control.ts';
import { ReceiveFilter } from './net-filter.ts';
import { OFFLOAD_DEPENDENCIES } from './net-offloads.ts';

const MAC_LENGTH = 6;

/** What a vDPA device that is a network interface does not report: its control queue is its own. */
export const vdpaNet: VdpaType = {
  deviceId: net.VIRTIO_ID_NET,
  pciClass: PCI_CLASS_ETHERNET,
  what: 'a network interface',
  queueNames: (count) =>
    queueSpecs(count >> 1, 0)
      .slice(0, count)
      .map(({ name }) => name),
};

/** Features that concern the user of packets. */
const PACKET_FEATURES = featureSet(
  net.VIRTIO_NET_F_CSUM,
  net.VIRTIO_NET_F_GUEST_CSUM,
  net.VIRTIO_NET_F_GUEST_TSO4,
  net.VIRTIO_NET_F_GUEST_TSO6,
  net.VIRTIO_NET_F_GUEST_ECN,
  net.VIRTIO_NET_F_HOST_TSO4,
  net.VIRTIO_NET_F_HOST_TSO6,
  net.VIRTIO_NET_F_HOST_ECN,
  net.VIRTIO_NET_F_MRG_RXBUF,
  net.VIRTIO_NET_F_GUEST_USO4,
  net.VIRTIO_NET_F_GUEST_USO6,
  net.VIRTIO_NET_F_HOST_USO,
);

/** Some backends, such as DPDK's, have one pair without it. */
const PAIRS = featureSet(net.VIRTIO_NET_F_MQ);

/** The options of an interface. */
export interface NetBackendOptions {
  /** Queue pairs. */
  readonly pairs: number;
  /** Default: the backend's, else one made from `seed`. */
  readonly mac?: string;
  readonly seed: string;
  readonly queueSize: number;
}

/** @throws UsageError or PeerError */
export async function netKind(
  backend: BackendOffer,
  options: NetBackendOptions,
): Promise<DeviceKind> {
  const { pairs, queueSize } = options;
  const own = [net.VIRTIO_NET_F_MAC, net.VIRTIO_NET_F_STATUS];
  if (pairs > 1) own.push(net.VIRTIO_NET_F_MQ, net.VIRTIO_NET_F_CTRL_VQ);
  const inUse = new PairsInUse(pairs);
  const config = initialConfig(await macOf(backend, options), pairs);
  const queues = queueSpecs(pairs, queueSize);
  return {
    deviceId: net.VIRTIO_ID_NET,
    pciClass: PCI_CLASS_ETHERNET,
    backendFeatures: backend.features & (pairs > 1 ? PACKET_FEATURES | PAIRS : PACKET_FEATURES),
    ownFeatures: featureSet(...own),
    featureDependencies: [
      ...OFFLOAD_DEPENDENCIES,
      [net.VIRTIO_NET_F_MQ, net.VIRTIO_NET_F_CTRL_VQ],
      // Else the control queue would have another index (§5.1.2).
      [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_MQ],
    ],
    queues: pairs > 1 ? queues : queues.slice(0, -1),
    servedQueues: 2 * pairs,
    countsPairs: true,
    config: config.slice(0, net.virtio_net_config.mtu.offset),
    isEnabled: (queue) => queue < 2 * inUse.count,
    reset: () => inUse.set(1),
    ...(pairs === 1
      ? {}
      : {
          createHandler: (enable: (queue: number, on: boolean) => void) => {
            inUse.changed = enable;
            return new PairsHandler(inUse, 2 * pairs);
          },
        }),
  };
}

/** How many queue pairs the driver uses (§5.1.6.5.5): one after a reset. */
class PairsInUse {
  count = 1;
  changed: (queue: number, enabled: boolean) => void = () => {};
  readonly #most: number;

  constructor(most: number) {
    this.#most = most;
  }

  /** Returns false when there are not that many. */
  set(count: number): boolean {
    if (count < 1 || count > this.#most) return false;
    const before = this.count;
    this.count = count;
    for (let queue = 2 * before; queue < 2 * count; queue++) this.changed(queue, true);
    for (let queue = 2 * count; queue < 2 * before; queue++) this.changed(queue, false);
    return true;
  }
}

/** The data half of the control queue. */
class PairsHandler implements QueueHandler {
  readonly #pairs: PairsInUse;
  readonly #index: number;
  #control: ControlQueue | undefined;

  constructor(pairs: PairsInUse, index: number) {
    this.#pairs = pairs;
    this.#index = index;
  }

  start(context: HandlerContext): void {
    const served = context.queues[this.#index];
    if (served === undefined) return;
    const controls = {
      setPairs: (pairs: number) => this.#pairs.set(pairs),
      setGuestOffloads: () => false,
      setMac: () => false,
    };
    this.#control = new ControlQueue(served, context, new ReceiveFilter(0, false), controls);
  }

  kick(): void {
    this.#control?.run();
  }

  stop(): void {
    this.#control = undefined;
  }
}

async function macOf(backend: BackendOffer, { mac, seed }: NetBackendOptions): Promise<Uint8Array> {
  if (mac !== undefined) return parseMac(mac);
  const hasMac = hasFeature(backend.features, net.VIRTIO_NET_F_MAC);
  if (!hasMac || !backend.hasConfig) return generateMac(seed);
  return await backend.getConfig(MAC_LENGTH);
}
