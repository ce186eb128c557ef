/**
 * One PCI function: its configuration space, capabilities and BARs (PCI 3.0 chapter 6). The bytes
 * lie in the state buffer; which of them the guest may write is the same in every thread.
 */
import * as pci from '../abi/pci.ts';
import type { Field } from '../abi/struct.ts';
import type { RegisterRegion } from '../bus/address-space.ts';
import type { InterruptController } from '../bus/interrupt-controller.ts';
import { InternalError } from '../host/errors.ts';
import type { SharedState } from '../state/shared-state.ts';
import { BarSet, type BarSpec } from './bars.ts';

const header = pci.pci_type0_header;

/** The identity of a function. */
export interface PciIdentity {
  readonly vendorId: number;
  readonly deviceId: number;
  readonly revision: number;
  /** 24 bits: class, subclass, programming interface. */
  readonly classCode: number;
  readonly subsystemVendorId: number;
  readonly subsystemId: number;
  /** INTA# when true, no interrupt pin otherwise. */
  readonly interruptPin: boolean;
}

/** A capability: its bytes after ID and next pointer, and what happens when they are accessed. */
export interface PciCapability {
  readonly id: number;
  /** Initial bytes from the third on. */
  readonly body: Uint8Array;
  /** Bits that the guest may write, as long as `body`. */
  readonly writeMask: Uint8Array;
  /** Where the capability was put, and the configuration space that it lies in. */
  placed?(offset: number, config: DataView): void;
  /** Before a read of any of its bytes; `offset` from the start of the capability. */
  reading?(offset: number, size: number): void;
  /** After a write to any of its bytes. */
  written?(offset: number, size: number): void;
}

interface Placed {
  readonly offset: number;
  readonly end: number;
  readonly capability: PciCapability;
}

/** A function of bus 0, always function 0 of its slot. */
export class PciFunction {
  readonly name: string;
  readonly bars: BarSet;
  /** Called for the bus when a BAR moved or decoding was switched. */
  decodeChanged: () => void = () => {};
  /** Called for the device when the command register was written. */
  commandWritten: () => void = () => {};
  /** Called after it has its power-on state. */
  wasReset: () => void = () => {};
  readonly #config: DataView;
  readonly #image = new Uint8Array(pci.PCI_CFG_SPACE_SIZE);
  readonly #mask = new Uint8Array(pci.PCI_CFG_SPACE_SIZE);
  readonly #placed: Placed[] = [];
  #lastCapability = header.capabilities_pointer.offset;
  #nextCapability = pci.PCI_STD_HEADER_SIZEOF;

  constructor(
    state: SharedState,
    interrupts: InterruptController,
    name: string,
    identity: PciIdentity,
  ) {
    this.name = name;
    const bytes = state.bytes(pci.PCI_CFG_SPACE_SIZE);
    this.#config = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.bars = new BarSet(state, interrupts, this.#config, this.#image, this.#mask);
    const image = new DataView(this.#image.buffer);
    image.setUint16(header.vendor_id.offset, identity.vendorId, true);
    image.setUint16(header.device_id.offset, identity.deviceId, true);
    image.setUint8(header.revision_id.offset, identity.revision);
    image.setUint32(
      header.class_code.offset - 1,
      (identity.classCode << 8) | identity.revision,
      true,
    );
    image.setUint16(header.subsystem_vendor_id.offset, identity.subsystemVendorId, true);
    image.setUint16(header.subsystem_id.offset, identity.subsystemId, true);
    image.setUint8(header.interrupt_pin.offset, identity.interruptPin ? 1 : 0);
    const mask = new DataView(this.#mask.buffer);
    const command =
      pci.PCI_COMMAND_IO |
      pci.PCI_COMMAND_MEMORY |
      pci.PCI_COMMAND_MASTER |
      pci.PCI_COMMAND_INTX_DISABLE;
    mask.setUint16(header.command.offset, command, true);
    mask.setUint8(header.interrupt_line.offset, 0xff);
    mask.setUint8(header.cache_line_size.offset, 0xff);
  }

  /** Sets the interrupt line that firmware would have written: the GSI, for the guest's eyes only. */
  setInterruptLine(gsi: number): void {
    this.#image[header.interrupt_line.offset] = gsi;
  }

  /** Adds a BAR; `address` is where firmware would have put it. */
  addBar(index: number, spec: BarSpec, address: number): void {
    this.bars.add(index, spec, address);
  }

  /** Adds a capability at the end of the list. Returns its offset. */
  addCapability(capability: PciCapability): number {
    const offset = this.#nextCapability;
    this.placeCapability(offset, capability);
    return offset;
  }

  /** Adds a capability at the end of the list, where there is none yet. @param offset in configuration space */
  placeCapability(offset: number, capability: PciCapability): void {
    const end = offset + 2 + capability.body.length;
    if (end > pci.PCI_CFG_SPACE_SIZE)
      throw new InternalError(`${this.name}: capabilities overflow`);
    this.#image[offset] = capability.id;
    this.#image.set(capability.body, offset + 2);
    this.#mask.set(capability.writeMask, offset + 2);
    this.#image[this.#lastCapability] = offset;
    const status = header.status.offset;
    this.#image[status] = (this.#image[status] ?? 0) | pci.PCI_STATUS_CAP_LIST;
    this.#lastCapability = offset + 1;
    this.#nextCapability = Math.ceil(end / 4) * 4;
    this.#placed.push({ offset, end, capability });
    capability.placed?.(offset, this.#config);
  }

  /** Makes a byte that is no part of a capability writable. @param written called after each write of it */
  addRegister(offset: number, writeMask: number, written: () => void): void {
    this.#mask[offset] = writeMask;
    const capability = { id: 0, body: new Uint8Array(0), writeMask: new Uint8Array(0), written };
    this.#placed.push({ offset, end: offset + 1, capability });
  }

  /** Its configuration space, which is the same bytes in every thread. */
  get config(): DataView {
    return this.#config;
  }

  /** Power-on state. */
  reset(): void {
    this.bars.disconnect();
    for (let i = 0; i < this.#image.length; i++) this.#config.setUint8(i, this.#image[i] ?? 0);
    this.wasReset();
  }

  /** What is decoded has changed. */
  updateDecoding(): void {
    this.bars.reconnect();
    this.decodeChanged();
  }

  /** PCI_COMMAND as it is now. */
  get command(): number {
    return this.#config.getUint16(header.command.offset, true);
  }

  /** @param size 1, 2 or 4; an access never crosses a double word */
  readConfig(offset: number, size: number): number {
    for (const { offset: start, end, capability } of this.#placed) {
      if (offset < end && offset + size > start) capability.reading?.(offset - start, size);
    }
    if (size === 1) return this.#config.getUint8(offset);
    if (size === 2) return this.#config.getUint16(offset, true);
    return this.#config.getUint32(offset, true);
  }

  writeConfig(offset: number, size: number, value: number): void {
    for (let i = 0; i < size; i++) {
      const mask = this.#mask[offset + i] ?? 0;
      const byte = (value >>> (8 * i)) & 0xff;
      const old = this.#config.getUint8(offset + i);
      this.#config.setUint8(offset + i, (old & ~mask) | (byte & mask));
    }
    const end = offset + size;
    const overlaps = (field: Field): boolean =>
      offset < field.offset + field.length && end > field.offset;
    const command = overlaps(header.command);
    if (command || overlaps(header.base_address)) this.updateDecoding();
    if (command) this.commandWritten();
    for (const { offset: start, end: last, capability } of this.#placed) {
      if (offset < last && end > start) capability.written?.(offset - start, size);
    }
  }

  /** Configuration space past the first 256 bytes (PCIe 5.0 §7.2.2). Zeros: no capabilities there. */
  readExtended(_offset: number, _size: number): number {
    return 0;
  }

  writeExtended(_offset: number, _size: number, _value: number): void {}

  /** The registers behind a BAR, for the configuration access window of virtio. */
  barRegion(index: number): { readonly region: RegisterRegion; readonly size: number } | undefined {
    return this.bars.spec(index);
  }
}
