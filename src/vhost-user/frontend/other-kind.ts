/** Any device in another process: identified by its device ID, the rest is the backend's. */
import { hasFeature } from '../../abi/virtio-ring.ts';
import type { BackendOffer, DeviceKind } from '../../virtio/frontend-device.ts';

/** PCI: unclassified. */
const PCI_CLASS_OTHERS = 0x00_ff00;
/** virtio 1.3 §2.2: 0 to 23 and from 50 on are the device type's; there are 64 here. */
const isDeviceBit = (bit: number): boolean => bit <= 23 || bit >= 50;

/** What a device ID leaves open. */
export interface OtherDevice {
  /** virtio 1.3 §5. */
  readonly deviceId: number;
  readonly queues: number;
  readonly queueSize: number;
  /** Bytes; 0: it has none. */
  readonly configSize: number;
}

/** @throws PeerError */
export async function otherKind(backend: BackendOffer, device: OtherDevice): Promise<DeviceKind> {
  const { deviceId, queues, queueSize, configSize } = device;
  const bits = Array.from({ length: 64 }, (_, bit) => bit).filter(isDeviceBit);
  const offered = bits.filter((bit) => hasFeature(backend.features, bit));
  const shape = {
    deviceId,
    pciClass: PCI_CLASS_OTHERS,
    backendFeatures: offered.reduce((all, bit) => all | (1n << BigInt(bit)), 0n),
    ownFeatures: 0n,
    queues: Array.from({ length: queues }, (_, i) => ({ name: `queue${i}`, maxSize: queueSize })),
    servedQueues: queues,
  };
  if (configSize === 0) return { ...shape, config: new Uint8Array(0) };
  return {
    ...shape,
    config: await backend.getConfig(configSize),
    // Which bytes may be written is up to the backend.
    configWriteMask: new Uint8Array(configSize).fill(0xff),
    readConfig: (current) => current.getConfig(configSize),
  };
}
