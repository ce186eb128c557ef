/**
 * Configuration space of a passed function. What concerns where the guest finds the device and how it
 * is interrupted is the machine's (BARs, decoding, MSI, MSI-X, power state); the rest goes to the device,
 * by way of VFIO, which keeps the guest from what would harm the host.
 */
import * as pci from '../abi/pci.ts';
import type { InterruptController } from '../bus/interrupt-controller.ts';
import { PciFunction } from '../pci/function.ts';
import { Msi } from '../pci/msi.ts';
import { Msix, type MsixVector } from '../pci/msix.ts';
import type { SharedState } from '../state/shared-state.ts';
import { findCapabilities, isShown, ownBytes } from './capabilities.ts';
import { extendedSpace } from './extended-capabilities.ts';
import type { DeviceShape } from './passed-device.ts';
import type { VfioFile } from './vfio-file.ts';

const header = pci.pci_type0_header;
const ALL_ONES: readonly number[] = [0, 0xff, 0xffff, 0, 0xffff_ffff];
const ALL = 0xff;
/** Bits of the command register that the guest has for itself: the device decodes all the time. */
const OWN_COMMAND = pci.PCI_COMMAND_IO | pci.PCI_COMMAND_MEMORY;

/** Reads and writes of the device's configuration space. */
export type ConfigFile = Pick<VfioFile, 'read' | 'write'>;

/** What of the device its function needs. */
export type FunctionShape = Pick<DeviceShape, 'config' | 'configOffset' | 'msix'> & {
  /** Message-signaled interrupts that VFIO can deliver. */
  readonly msiVectors: number;
  readonly hasPin: boolean;
};

/** The function as one thread sees it. */
export class PassedFunction extends PciFunction {
  readonly msi: Msi | undefined;
  readonly msix: Msix | undefined;
  readonly #file: ConfigFile;
  readonly #offset: number;
  /** Bits of each byte that are the machine's. */
  readonly #own = new Uint8Array(pci.PCI_CFG_SPACE_EXP_SIZE);
  /** What the guest reads past the first 256 bytes where the device is not asked. */
  readonly #extended: DataView;
  /** 1 once the device is gone: it answers with ones then. */
  readonly #gone: Uint8Array;

  constructor(
    state: SharedState,
    interrupts: InterruptController,
    name: string,
    shape: FunctionShape,
    vectors: readonly MsixVector[],
    file: ConfigFile,
  ) {
    const { config } = shape;
    const view = new DataView(config.buffer, config.byteOffset, config.byteLength);
    super(state, interrupts, name, {
      vendorId: view.getUint16(header.vendor_id.offset, true),
      deviceId: view.getUint16(header.device_id.offset, true),
      revision: view.getUint8(header.revision_id.offset),
      classCode: view.getUint32(header.revision_id.offset, true) >>> 8,
      subsystemVendorId: view.getUint16(header.subsystem_vendor_id.offset, true),
      subsystemId: view.getUint16(header.subsystem_id.offset, true),
      interruptPin: shape.hasPin,
    });
    this.#file = file;
    this.#offset = shape.configOffset;
    this.#gone = state.bytes(1);
    this.#ownHeader();
    const { image, passed } = extendedSpace(view);
    this.#extended = image;
    this.#own.fill(ALL, pci.PCI_CFG_SPACE_SIZE);
    for (const { offset, end } of passed) this.#own.fill(0, offset, end);
    for (const found of findCapabilities(view)) {
      const { id, offset, end } = found;
      const isMsi = id === pci.PCI_CAP_ID_MSI;
      const isMsix = id === pci.PCI_CAP_ID_MSIX;
      if (!isShown(found) || (isMsi && shape.msiVectors === 0) || (isMsix && !shape.msix)) {
        this.#own.fill(ALL, offset, end);
      } else if (isMsi) {
        const control = view.getUint16(offset + 2, true);
        this.msi = new Msi(state, interrupts, control, vectors.slice(0, shape.msiVectors));
        this.placeCapability(offset, this.msi);
        this.#own.fill(ALL, offset, offset + 2 + this.msi.body.length);
      } else if (isMsix && shape.msix) {
        const count = shape.msix.vectors;
        this.msix = new Msix(state, interrupts, shape.msix, vectors.slice(0, count));
        this.placeCapability(offset, this.msix);
        this.#own.fill(ALL, offset, offset + 2 + this.msix.body.length);
      } else {
        const { body, own, writeMask } = ownBytes(view, found);
        this.placeCapability(offset, { id, body, writeMask });
        this.#own.fill(ALL, offset, offset + 2);
        this.#own.set(own, offset + 2);
      }
    }
  }

  get gone(): boolean {
    return this.#gone[0] === 1;
  }

  /** The device is not there any more. */
  markGone(): void {
    this.#gone[0] = 1;
  }

  /** Power-on state. The device decodes from then on, and does not yet reach memory. */
  override reset(): void {
    super.reset();
    this.msi?.reset();
    this.msix?.reset();
    if (!this.gone) this.#file.write(this.#offset + header.command.offset, 2, OWN_COMMAND);
  }

  override readConfig(offset: number, size: number): number {
    if (this.gone) return ALL_ONES[size] ?? 0;
    const own = this.#ownBits(offset, size);
    const value = super.readConfig(offset, size);
    if (own === ALL_ONES[size]) return value;
    const device = this.#file.read(this.#offset + offset, size);
    return ((value & own) | (device & ~own)) >>> 0;
  }

  override writeConfig(offset: number, size: number, value: number): void {
    if (this.gone) return;
    super.writeConfig(offset, size, value);
    const own = this.#ownBits(offset, size);
    if (own === ALL_ONES[size]) return;
    if (own === 0) {
      this.#file.write(this.#offset + offset, size, value);
      return;
    }
    // By bytes, lest a bit that is cleared by writing 1 is written back with others.
    for (let i = 0; i < size; i++) {
      const bits = this.#own[offset + i] ?? 0;
      if (bits === ALL) continue;
      const at = this.#offset + offset + i;
      const kept = bits === 0 ? 0 : this.#file.read(at, 1) & bits;
      this.#file.write(at, 1, (((value >>> (8 * i)) & ~bits) | kept) & 0xff);
    }
  }

  override readExtended(offset: number, size: number): number {
    if (this.gone) return ALL_ONES[size] ?? 0;
    // A double word is either the machine's or the device's.
    if (this.#own[offset] === 0) return this.#file.read(this.#offset + offset, size);
    if (size === 1) return this.#extended.getUint8(offset);
    return size === 2
      ? this.#extended.getUint16(offset, true)
      : this.#extended.getUint32(offset, true);
  }

  override writeExtended(offset: number, size: number, value: number): void {
    if (this.gone || this.#own[offset] !== 0) return;
    this.#file.write(this.#offset + offset, size, value);
  }

  /** An unsigned number of that size. */
  #ownBits(offset: number, size: number): number {
    let bits = 0;
    for (let i = 0; i < size; i++) bits |= (this.#own[offset + i] ?? 0) << (8 * i);
    return bits >>> 0;
  }

  /** No expansion ROM: nothing here would run it. One function only, whatever the device has. */
  #ownHeader(): void {
    const own = this.#own;
    own.fill(ALL, 0, pci.PCI_STD_HEADER_SIZEOF);
    own[header.command.offset] = OWN_COMMAND;
    own[header.command.offset + 1] = 0;
    own[header.status.offset] = pci.PCI_STATUS_CAP_LIST;
    own[header.status.offset + 1] = 0;
    own[header.cache_line_size.offset] = 0;
    own[header.latency_timer.offset] = 0;
  }
}
