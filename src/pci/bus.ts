/**
 * PCI bus 0: finds functions by slot, serves configuration space by mechanism #1 (PCI 3.0
 * §3.2.2.3.2) and by ECAM (PCIe 5.0 §7.2.2), and keeps the address spaces true to the BARs.
 */
import { PCI_CFG_SPACE_EXP_SIZE, PCI_CFG_SPACE_SIZE } from '../abi/pci.ts';
import type { AddressSpace, RegisterRegion } from '../bus/address-space.ts';
import type { InterruptController } from '../bus/interrupt-controller.ts';
import { InternalError } from '../host/errors.ts';
import type { SharedState } from '../state/shared-state.ts';
import { PciFunction } from './function.ts';

const SLOTS = 32;
const CONFIG_ENABLE = 0x8000_0000;
const ALL_ONES: readonly number[] = [0, 0xff, 0xffff, 0, 0xffff_ffff];

/** The bus as one thread sees it. */
export class PciBus {
  readonly #slots: (PciFunction | undefined)[] = new Array(SLOTS).fill(undefined);
  readonly #ports: AddressSpace;
  readonly #memory: AddressSpace;
  /** Word 0: bumped whenever decoding changed. Word 1: CONFIG_ADDRESS. Word 2: slots that do not answer, by bit. */
  readonly #words: Int32Array;
  #seen = -1;

  constructor(state: SharedState, ports: AddressSpace, memory: AddressSpace) {
    this.#words = state.words(3);
    this.#ports = ports;
    this.#memory = memory;
  }

  add(slot: number, pciFunction: PciFunction): void {
    if (this.#slots[slot] !== undefined) throw new InternalError(`PCI slot ${slot} is taken`);
    this.#slots[slot] = pciFunction;
    pciFunction.decodeChanged = () => this.changed();
  }

  /** Takes a function out of this thread's view of the bus. */
  remove(slot: number): void {
    this.#slots[slot] = undefined;
  }

  /** Every thread looks at the bus again before its next access. */
  changed(): void {
    this.#words[0] = (this.#words[0] ?? 0) + 1;
  }

  /** Whether configuration space has a function in a slot; its BARs are decoded until it is removed. */
  answers(slot: number, does: boolean): void {
    const silent = this.#words[2] ?? 0;
    this.#words[2] = does ? silent & ~(1 << slot) : silent | (1 << slot);
  }

  /** Power-on state of every function. */
  reset(): void {
    this.#words[1] = 0;
    this.#words[2] = 0;
    for (const pciFunction of this.#slots) pciFunction?.reset();
    this.changed();
  }

  /**
   * Brings this thread's address spaces up to date with BARs that another one moved. HOT.
   * @param renew called before, when something has changed
   */
  refresh(renew?: () => void): void {
    const generation = this.#words[0] ?? 0;
    if (generation === this.#seen) return;
    this.#seen = generation;
    renew?.();
    const all = this.#slots.filter((slot) => slot !== undefined);
    this.#ports.setMovable(all.flatMap((slot) => slot.bars.ranges(true)));
    this.#memory.setMovable(all.flatMap((slot) => slot.bars.ranges(false)));
  }

  /** Registers of mechanism #1: CONFIG_ADDRESS and CONFIG_DATA, 8 ports. */
  readonly mechanism1: RegisterRegion = {
    read: (offset, size) => {
      const address = (this.#words[1] ?? 0) >>> 0;
      if (offset === 0 && size === 4) return address;
      if (offset < 4 || address < CONFIG_ENABLE) return ALL_ONES[size] ?? 0;
      return this.#read((address >>> 8) & 0xffff, (address & 0xfc) + offset - 4, size);
    },
    write: (offset, size, value) => {
      if (offset === 0 && size === 4) {
        this.#words[1] = value & ~0x7f00_0003;
        return;
      }
      const address = (this.#words[1] ?? 0) >>> 0;
      if (offset < 4 || address < CONFIG_ENABLE) return;
      this.#write((address >>> 8) & 0xffff, (address & 0xfc) + offset - 4, size, value);
    },
  };

  /** Memory-mapped configuration space of bus 0. */
  readonly ecam: RegisterRegion = {
    read: (offset, size) =>
      this.#read(
        Math.floor(offset / PCI_CFG_SPACE_EXP_SIZE),
        offset % PCI_CFG_SPACE_EXP_SIZE,
        size,
      ),
    write: (offset, size, value) =>
      this.#write(
        Math.floor(offset / PCI_CFG_SPACE_EXP_SIZE),
        offset % PCI_CFG_SPACE_EXP_SIZE,
        size,
        value,
      ),
  };

  /** @param address bus (8 bits), device (5), function (3) */
  #find(address: number): PciFunction | undefined {
    if (address >> 8 !== 0 || (address & 7) !== 0) return undefined;
    const slot = address >> 3;
    return ((this.#words[2] ?? 0) & (1 << slot)) === 0 ? this.#slots[slot] : undefined;
  }

  #read(address: number, offset: number, size: number): number {
    const found = this.#find(address);
    if (found === undefined || (offset % 4) + size > 4) return ALL_ONES[size] ?? 0;
    return offset < PCI_CFG_SPACE_SIZE
      ? found.readConfig(offset, size)
      : found.readExtended(offset, size);
  }

  #write(address: number, offset: number, size: number, value: number): void {
    const found = this.#find(address);
    if (found === undefined || (offset % 4) + size > 4) return;
    if (offset < PCI_CFG_SPACE_SIZE) found.writeConfig(offset, size, value);
    else found.writeExtended(offset, size, value);
  }
}

/**
 * The host bridge for slot 0, without registers of its own: guests look for one before they trust
 * the bus. It has Red Hat's IDs for emulated PCIe hosts, which no driver binds to.
 */
export function createHostBridge(state: SharedState, interrupts: InterruptController): PciFunction {
  return new PciFunction(state, interrupts, 'host-bridge', {
    vendorId: 0x1b36,
    deviceId: 0x0008,
    revision: 0,
    classCode: 0x06_0000,
    subsystemVendorId: 0x1af4,
    subsystemId: 0x1100,
    interruptPin: false,
  });
}
