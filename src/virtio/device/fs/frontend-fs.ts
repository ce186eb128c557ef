/** A file system in another process (virtio 1.3 §5.11); its configuration is the frontend's. */
import { VIRTIO_ID_FS, virtio_fs_config } from '../../../abi/fuse.ts';
import type { DeviceKind } from '../../frontend-device.ts';

/** PCI: mass storage controller, other. */
const PCI_CLASS_STORAGE_OTHER = 0x01_8000;

/**
 * @param tag at most 36 bytes in UTF-8
 * @param requestQueues in addition to the high priority queue
 */
export function fsKind(tag: string, requestQueues: number, queueSize: number): DeviceKind {
  const config = new Uint8Array(virtio_fs_config.size);
  config.set(Buffer.from(tag), virtio_fs_config.tag.offset);
  const { offset } = virtio_fs_config.num_request_queues;
  new DataView(config.buffer).setUint32(offset, requestQueues, true);
  const names = ['hiprio', ...Array.from({ length: requestQueues }, (_, i) => `requestq${i + 1}`)];
  return {
    deviceId: VIRTIO_ID_FS,
    pciClass: PCI_CLASS_STORAGE_OTHER,
    // VIRTIO_FS_F_NOTIFICATION, the only one, adds a queue whose buffers have no end.
    backendFeatures: 0n,
    ownFeatures: 0n,
    queues: names.map((name) => ({ name, maxSize: queueSize })),
    servedQueues: names.length,
    config,
  };
}
