/** The common configuration structure of virtio over PCI (virtio 1.3 §4.1.4.3). */
import { virtio_pci_common_cfg as cfg, VIRTIO_MSI_NO_VECTOR } from '../../abi/virtio-pci.ts';
import type { RegisterRegion } from '../../bus/address-space.ts';
import {
  type DeviceRegisters,
  QUEUE_DESC,
  QUEUE_DEVICE,
  QUEUE_DRIVER,
  QUEUE_ENABLE,
  QUEUE_RESET,
  QUEUE_SIZE,
  QUEUE_VECTOR,
} from './device-registers.ts';

/** Widths of the fields by offset: an access of any other place or width is none (§4.1.3.1). */
const widths = new Uint8Array(cfg.size);
const names = new Map<number, string>();
for (const [name, field] of Object.entries(cfg)) {
  if (name === 'size' || typeof field === 'number') continue;
  const isAddress = field.length === 8;
  names.set(field.offset, name);
  widths[field.offset] = isAddress ? 4 : field.length;
  if (isAddress) widths[field.offset + 4] = 4;
}

/** Maps the structure's fields to the device's registers. */
export class PciCommonConfig implements RegisterRegion {
  readonly #registers: DeviceRegisters;
  readonly #vectors: number;

  /** @param vectors MSI-X vectors that the function has */
  constructor(registers: DeviceRegisters, vectors: number) {
    this.#registers = registers;
    this.#vectors = vectors;
  }

  read(offset: number, size: number): number {
    if (widths[offset] !== size) return 0;
    const device = this.#registers;
    const queue = device.queueSelect;
    switch (offset) {
      case cfg.device_feature_select.offset:
        return device.deviceFeatureSelect;
      case cfg.device_feature.offset:
        return device.readDeviceFeature();
      case cfg.driver_feature_select.offset:
        return device.driverFeatureSelect;
      case cfg.driver_feature.offset:
        return device.readDriverFeature();
      case cfg.config_msix_vector.offset:
        return device.configVector;
      case cfg.num_queues.offset:
        return device.queueCount;
      case cfg.device_status.offset:
        return device.status;
      case cfg.config_generation.offset:
        return device.config.generation;
      case cfg.queue_select.offset:
        return queue;
      case cfg.queue_size.offset:
        return device.queueWord(queue, QUEUE_SIZE);
      case cfg.queue_msix_vector.offset:
        return device.queueWord(queue, QUEUE_VECTOR);
      case cfg.queue_enable.offset:
        return device.queueWord(queue, QUEUE_ENABLE);
      case cfg.queue_notify_off.offset:
      case cfg.queue_notif_config_data.offset:
        return queue < device.queueCount ? queue : 0;
      case cfg.queue_reset.offset:
        return device.queueWord(queue, QUEUE_RESET);
      default: {
        const word = addressWord(offset);
        return word < 0 ? 0 : device.queueWord(queue, word) >>> 0;
      }
    }
  }

  write(offset: number, size: number, value: number): void {
    if (widths[offset] !== size) return;
    const device = this.#registers;
    const queue = device.queueSelect;
    switch (offset) {
      case cfg.device_feature_select.offset:
        device.deviceFeatureSelect = value;
        return;
      case cfg.driver_feature_select.offset:
        device.driverFeatureSelect = value;
        return;
      case cfg.driver_feature.offset:
        device.writeDriverFeature(value);
        return;
      case cfg.config_msix_vector.offset:
        device.configVector = this.#vector(value);
        return;
      case cfg.device_status.offset:
        device.writeStatus(value);
        return;
      case cfg.queue_select.offset:
        device.queueSelect = value;
        return;
      case cfg.queue_size.offset:
        device.writeQueueSize(queue, value);
        return;
      case cfg.queue_msix_vector.offset:
        device.setQueueVector(queue, this.#vector(value));
        return;
      case cfg.queue_enable.offset:
        if (value === 1) device.enableQueue(queue);
        return;
      case cfg.queue_reset.offset:
        if (value === 1) device.resetQueue(queue);
        return;
      default: {
        const word = addressWord(offset);
        if (word >= 0) device.setQueueWord(queue, word, value);
        else device.readOnlyWritten(names.get(offset) ?? '');
      }
    }
  }

  /** A vector that does not exist reads back as none (§4.1.5.1.2.1). */
  #vector(value: number): number {
    return value < this.#vectors ? value : VIRTIO_MSI_NO_VECTOR;
  }
}

/** The queue's word that a half of an address field stands for, or -1. */
function addressWord(offset: number): number {
  switch (offset & ~7) {
    case cfg.queue_desc.offset:
      return QUEUE_DESC + ((offset & 4) >> 2);
    case cfg.queue_driver.offset:
      return QUEUE_DRIVER + ((offset & 4) >> 2);
    case cfg.queue_device.offset:
      return QUEUE_DEVICE + ((offset & 4) >> 2);
    default:
      return -1;
  }
}
