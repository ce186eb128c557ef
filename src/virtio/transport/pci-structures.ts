/**
 * The structures of virtio over PCI: common configuration (virtio 1.3 §4.1.4.3), and the vendor
 * capabilities that say where each structure lies (§4.1.4).
 */
import { PCI_CAP_ID_VNDR } from '../../abi/pci.ts';
import {
  virtio_pci_common_cfg as cfg,
  VIRTIO_MSI_NO_VECTOR,
  VIRTIO_PCI_CAP_PCI_CFG,
  virtio_pci_cap,
} from '../../abi/virtio-pci.ts';
import type { RegisterRegion } from '../../bus/address-space.ts';
import type { PciCapability } from '../../pci/function.ts';
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

/** Widths of the fields by offset: an access with any other offset or width is ignored (§4.1.3.1). */
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

/** The queue's word for a half of an address field, or -1. */
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

/** ID and next pointer, which the function itself fills in. */
const HEAD = 2;

/** A capability pointing to a structure in a BAR. */
export function structureCapability(
  type: number,
  bar: number,
  offset: number,
  length: number,
  extra: Uint8Array = new Uint8Array(0),
): PciCapability {
  const body = new Uint8Array(virtio_pci_cap.size - HEAD + extra.length);
  const view = new DataView(body.buffer);
  view.setUint8(virtio_pci_cap.cap_len.offset - HEAD, virtio_pci_cap.size + extra.length);
  view.setUint8(virtio_pci_cap.cfg_type.offset - HEAD, type);
  view.setUint8(virtio_pci_cap.bar.offset - HEAD, bar);
  view.setUint32(virtio_pci_cap.offset.offset - HEAD, offset, true);
  view.setUint32(virtio_pci_cap.length.offset - HEAD, length, true);
  body.set(extra, virtio_pci_cap.size - HEAD);
  return { id: PCI_CAP_ID_VNDR, body, writeMask: new Uint8Array(body.length) };
}

/**
 * The window through which configuration accesses reach BARs (§4.1.4.9): for firmware that cannot
 * map them.
 */
export class PciConfigAccess implements PciCapability {
  readonly id = PCI_CAP_ID_VNDR;
  readonly body: Uint8Array;
  readonly writeMask: Uint8Array;
  readonly #find: (bar: number) => { region: RegisterRegion; size: number } | undefined;
  #offset = 0;
  #config: DataView | undefined;

  /** @param find the registers behind a BAR */
  constructor(find: (bar: number) => { region: RegisterRegion; size: number } | undefined) {
    this.#find = find;
    const base = structureCapability(VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0, new Uint8Array(4));
    this.body = base.body;
    this.writeMask = new Uint8Array(this.body.length);
    this.writeMask[virtio_pci_cap.bar.offset - HEAD] = 0xff;
    // offset, length and pci_cfg_data are writable.
    this.writeMask.fill(0xff, virtio_pci_cap.offset.offset - HEAD);
  }

  placed(offset: number, config: DataView): void {
    this.#offset = offset;
    this.#config = config;
  }

  reading(offset: number): void {
    if (offset < virtio_pci_cap.size) return;
    const target = this.#target();
    if (target === undefined) return;
    const value = target.region.read(target.offset, target.length);
    this.#config?.setUint32(this.#offset + virtio_pci_cap.size, value, true);
  }

  written(offset: number): void {
    if (offset < virtio_pci_cap.size) return;
    const target = this.#target();
    const data = this.#config?.getUint32(this.#offset + virtio_pci_cap.size, true);
    if (target === undefined || data === undefined) return;
    const bits = 8 * target.length;
    const value = bits === 32 ? data : data & (2 ** bits - 1);
    target.region.write(target.offset, target.length, value);
  }

  /** The access that the fields describe, or undefined where they break §4.1.4.9.2. */
  #target(): { region: RegisterRegion; offset: number; length: number } | undefined {
    const config = this.#config;
    if (config === undefined) return undefined;
    const bar = this.#find(config.getUint8(this.#offset + virtio_pci_cap.bar.offset));
    const offset = config.getUint32(this.#offset + virtio_pci_cap.offset.offset, true);
    const length = config.getUint32(this.#offset + virtio_pci_cap.length.offset, true);
    if (bar === undefined || (length !== 1 && length !== 2 && length !== 4)) return undefined;
    if (offset % length !== 0 || offset + length > bar.size) return undefined;
    return { region: bar.region, offset, length };
  }
}
