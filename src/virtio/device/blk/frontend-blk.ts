/** A disk that another process or a vDPA device serves (virtio 1.3 §5.2). */
import {
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_MQ,
  VIRTIO_BLK_F_WRITE_ZEROES,
  VIRTIO_ID_BLOCK,
  virtio_blk_config,
} from '../../../abi/virtio-blk.ts';
import { featureSet, hasFeature } from '../../../abi/virtio-ring.ts';
import { UsageError } from '../../../host/errors.ts';
import type { BackendOffer, DeviceKind } from '../../frontend-device.ts';
import type { VdpaType } from '../vdpa-type.ts';

const PCI_CLASS_STORAGE = 0x01_0000;
const CONFIG = virtio_blk_config;
const MAX_QUEUES = 16;
/** All features whose configuration fields are known here. */
const KNOWN = featureSet(...Array.from({ length: VIRTIO_BLK_F_WRITE_ZEROES + 1 }, (_, bit) => bit));

/** What a vDPA device that is a disk does not report. */
export const vdpaBlk: VdpaType = {
  deviceId: VIRTIO_ID_BLOCK,
  pciClass: PCI_CLASS_STORAGE,
  what: 'a disk',
  queueNames: (count) => Array.from({ length: count }, (_, i) => `requestq${i + 1}`),
  writable: (features) =>
    hasFeature(features, VIRTIO_BLK_F_CONFIG_WCE) ? [CONFIG.writeback.offset] : [],
};

/** @param queues undefined: as many as the backend's configuration has @throws UsageError or PeerError */
export async function blkKind(
  name: string,
  backend: BackendOffer,
  queues: number | undefined,
  queueSize: number,
): Promise<DeviceKind> {
  const { features, maxQueues: served } = backend;
  const multiqueue = hasFeature(features, VIRTIO_BLK_F_MQ);
  const config = await backend.getConfig(configSize(features));
  const has = multiqueue ? viewOf(config).getUint16(CONFIG.num_queues.offset, true) : 1;
  const most = Math.max(1, Math.min(has, served ?? has));
  const count = queues ?? Math.min(most, MAX_QUEUES);
  if (count > most) {
    throw new UsageError(
      'E_VHOST_USER_QUEUES',
      `${name}: its backend has ${most} queues, not ${count}`,
    );
  }
  const adapted = (config: Uint8Array): Uint8Array => {
    if (multiqueue) viewOf(config).setUint16(CONFIG.num_queues.offset, count, true);
    return config;
  };
  const configWriteMask = new Uint8Array(config.length);
  if (hasFeature(features, VIRTIO_BLK_F_CONFIG_WCE)) {
    configWriteMask[CONFIG.writeback.offset] = 0xff;
  }
  return {
    deviceId: VIRTIO_ID_BLOCK,
    pciClass: PCI_CLASS_STORAGE,
    backendFeatures: features & KNOWN,
    ownFeatures: 0n,
    queues: Array.from({ length: count }, (_, i) => ({
      name: `requestq${i + 1}`,
      maxSize: queueSize,
    })),
    servedQueues: count,
    config: adapted(config),
    configWriteMask,
    readConfig: async (current) => adapted(await current.getConfig(config.length)),
  };
}

/** Backends reject reads of fields that none of their features has. */
function configSize(features: bigint): number {
  const end = ({ offset, length }: { offset: number; length: number }): number => offset + length;
  if (hasFeature(features, VIRTIO_BLK_F_WRITE_ZEROES)) return end(CONFIG.unused1);
  if (hasFeature(features, VIRTIO_BLK_F_DISCARD)) return end(CONFIG.discard_sector_alignment);
  return end(CONFIG.num_queues);
}

function viewOf({ buffer, byteOffset, byteLength }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset, byteLength);
}
