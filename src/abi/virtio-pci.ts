/** virtio 1.3 §4.1: identifiers and structures of virtio over PCI; §2.1: device status. */
import { struct } from './struct.ts';

export const PCI_VENDOR_ID_REDHAT_QUMRANET = 0x1af4;
/** PCI device ID of device ID 0 (§4.1.2.1). */
export const VIRTIO_PCI_DEVICE_ID_BASE = 0x1040;

export const VIRTIO_PCI_CAP_COMMON_CFG = 1;
export const VIRTIO_PCI_CAP_NOTIFY_CFG = 2;
export const VIRTIO_PCI_CAP_ISR_CFG = 3;
export const VIRTIO_PCI_CAP_DEVICE_CFG = 4;
export const VIRTIO_PCI_CAP_PCI_CFG = 5;

/** §4.1.4, with the first two bytes that every capability has. */
export const virtio_pci_cap = struct({
  cap_vndr: 1,
  cap_next: 1,
  cap_len: 1,
  cfg_type: 1,
  bar: 1,
  id: 1,
  padding: [1, 2],
  offset: 4,
  length: 4,
});

/** §4.1.4.3. */
export const virtio_pci_common_cfg = struct({
  device_feature_select: 4,
  device_feature: 4,
  driver_feature_select: 4,
  driver_feature: 4,
  config_msix_vector: 2,
  num_queues: 2,
  device_status: 1,
  config_generation: 1,
  queue_select: 2,
  queue_size: 2,
  queue_msix_vector: 2,
  queue_enable: 2,
  queue_notify_off: 2,
  queue_desc: [4, 2],
  queue_driver: [4, 2],
  queue_device: [4, 2],
  queue_notif_config_data: 2,
  queue_reset: 2,
  admin_queue_index: 2,
  admin_queue_num: 2,
});

export const VIRTIO_MSI_NO_VECTOR = 0xffff;

export const VIRTIO_PCI_ISR_QUEUE = 1;
export const VIRTIO_PCI_ISR_CONFIG = 2;

/** Device status bits, §2.1. */
export const ACKNOWLEDGE = 1;
export const DRIVER = 2;
export const DRIVER_OK = 4;
export const FEATURES_OK = 8;
export const DEVICE_NEEDS_RESET = 64;
export const FAILED = 128;
