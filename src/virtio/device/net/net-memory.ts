/** A network device without a network, to measure everything around it (virtio 1.3 §5.1). */
import {
  VIRTIO_ID_NET,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_STATUS,
  VIRTIO_NET_S_LINK_UP,
  virtio_net_config,
} from '../../../abi/virtio-net.ts';
import { featureSet } from '../../../abi/virtio-ring.ts';
import { parseMac } from '../../../backend/tap.ts';
import type { VirtioDevice } from '../../device.ts';
import { PCI_CLASS_ETHERNET, queueSpecs } from './net.ts';
import type { MemoryNetwork, NetMemoryOptions } from './net-memory-handler.ts';

const QUEUE_SIZE = 1024;
const MAC = '52:54:00:00:00:01';
const FRAME_MIN = 60;

/** A network in memory. */
export interface NetMemoryDeviceOptions {
  /** For messages and the thread: `net0`. */
  readonly name: string;
  readonly network: MemoryNetwork;
  /** Bytes of the source's frames, 60 to 9018. Default 60, a shortest frame without its checksum. */
  readonly frame?: number;
  /** Default 52:54:00:00:00:01. */
  readonly mac?: string;
}

/** @throws UsageError for an invalid MAC address */
export function createNetMemoryDevice(options: NetMemoryDeviceOptions): VirtioDevice {
  const { name, network, frame = FRAME_MIN } = options;
  const config = new Uint8Array(virtio_net_config.size);
  config.set(parseMac(options.mac ?? MAC), virtio_net_config.mac.offset);
  new DataView(config.buffer).setUint16(
    virtio_net_config.status.offset,
    VIRTIO_NET_S_LINK_UP,
    true,
  );
  return {
    name,
    deviceId: VIRTIO_ID_NET,
    pciClass: PCI_CLASS_ETHERNET,
    features: featureSet(VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_F_MRG_RXBUF),
    // No controlq without VIRTIO_NET_F_CTRL_VQ (§5.1.2), but frontends rely on its index.
    queues: queueSpecs(1, QUEUE_SIZE),
    config,
    thread: {
      kind: 'worker',
      module: new URL('./net-memory-handler.js', import.meta.url).href,
      options: { network, frame } satisfies NetMemoryOptions,
    },
    close: () => {},
  };
}
