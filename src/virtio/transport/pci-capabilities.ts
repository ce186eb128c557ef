/** Vendor capabilities that say where a virtio device's structures lie (virtio 1.3 §4.1.4). */
import { PCI_CAP_ID_VNDR } from '../../abi/pci.ts';
import { VIRTIO_PCI_CAP_PCI_CFG, virtio_pci_cap } from '../../abi/virtio-pci.ts';
import type { RegisterRegion } from '../../bus/address-space.ts';
import type { PciCapability } from '../../pci/function.ts';

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
