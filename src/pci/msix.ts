/**
 * MSI-X (PCI 3.0 §6.8.2). Each vector is an eventfd signaled by the device's datapath. An
 * unmasked vector is coupled to the guest's interrupt controller by irqfd; a masked one is not, so
 * that signals pile up in the eventfd, which thereby is the vector's pending bit.
 */
import * as pci from '../abi/pci.ts';
import type { RegisterRegion } from '../bus/address-space.ts';
import type { InterruptController } from '../bus/interrupt-controller.ts';
import { InternalError } from '../host/errors.ts';
import { drainEventfd } from '../host/fd.ts';
import type { SharedState } from '../state/shared-state.ts';
import type { PciCapability } from './function.ts';

/** Size of the BAR that holds table and pending bits. */
export const MSIX_BAR_SIZE = 0x1000;
/** Where the pending bits are behind this object. */
export const MSIX_PENDING_OFFSET = 0x800;
/** The most vectors that the BAR has room for. */
export const MSIX_VECTORS_MAX: number = MSIX_PENDING_OFFSET / pci.PCI_MSIX_ENTRY_SIZE;
/** Message control, from the start of the capability. */
const CONTROL = 2;
/** Vector Control, the last word of a table entry. */
const ENTRY_CONTROL = 12;

/** A vector's two ends: what devices signal, and the interrupt route it was given. */
export interface MsixVector {
  readonly eventfd: number;
  readonly gsi: number;
}

/** The registers that say in which BAR, and where there, table and pending bits are (§6.8.2.4). */
export interface MsixRegisters {
  readonly table: number;
  readonly pending: number;
}

/** Those of an `Msix` that is all of a BAR. */
export const msixInBar = (bar: number): MsixRegisters => ({
  table: bar,
  pending: MSIX_PENDING_OFFSET | bar,
});

/** The MSI-X capability of one function, and the BAR with its table. */
export class Msix implements PciCapability, RegisterRegion {
  readonly id = pci.PCI_CAP_ID_MSIX;
  readonly body = new Uint8Array(10);
  readonly writeMask = new Uint8Array(10);
  readonly vectors: readonly MsixVector[];
  /** Called when the guest switched MSI-X on or off. */
  enabledChanged: () => void = () => {};
  /** Called before a vector is coupled to its interrupt route. */
  connecting: (vector: number) => void = () => {};
  readonly #interrupts: InterruptController;
  readonly #table: DataView;
  /** 1 for each vector that is coupled to its interrupt route. */
  readonly #connected: Uint8Array;
  /** 1 when the guest had MSI-X enabled at its last write. */
  readonly #wasEnabled: Uint8Array;
  #config: DataView | undefined;
  #offset = 0;

  /** @param registers what the guest reads there */
  constructor(
    state: SharedState,
    interrupts: InterruptController,
    { table, pending }: MsixRegisters,
    vectors: readonly MsixVector[],
  ) {
    if (vectors.length > MSIX_VECTORS_MAX) throw new InternalError('too many MSI-X vectors');
    this.#interrupts = interrupts;
    this.vectors = vectors;
    const bytes = state.bytes(vectors.length * pci.PCI_MSIX_ENTRY_SIZE);
    this.#table = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#connected = state.bytes(vectors.length);
    this.#wasEnabled = state.bytes(1);
    const body = new DataView(this.body.buffer);
    body.setUint16(0, vectors.length - 1, true);
    body.setUint32(2, table, true);
    body.setUint32(6, pending, true);
    const writable = pci.PCI_MSIX_FLAGS_ENABLE | pci.PCI_MSIX_FLAGS_MASKALL;
    new DataView(this.writeMask.buffer).setUint16(0, writable, true);
  }

  placed(offset: number, config: DataView): void {
    this.#offset = offset;
    this.#config = config;
  }

  /** Power-on state: every vector masked (§6.8.2.9). */
  reset(): void {
    for (let i = 0; i < this.vectors.length; i++) {
      for (let word = 0; word < 3; word++) this.#table.setUint32(i * 16 + word * 4, 0, true);
      this.#table.setUint32(i * 16 + ENTRY_CONTROL, pci.PCI_MSIX_ENTRY_CTRL_MASKBIT, true);
    }
    this.#sync(0, this.vectors.length);
    this.#wasEnabled[0] = 0;
  }

  /** True when the function's interrupts are MSI-X messages, and not INTx. */
  get enabled(): boolean {
    return (this.#control() & pci.PCI_MSIX_FLAGS_ENABLE) !== 0;
  }

  /** The eventfd of a vector, or -1 for a number that is none, as VIRTIO_MSI_NO_VECTOR. */
  eventfd(vector: number): number {
    return this.vectors[vector]?.eventfd ?? -1;
  }

  /** The guest wrote Message Control. */
  written(): void {
    const enabled = this.enabled;
    const changed = enabled !== (this.#wasEnabled[0] === 1);
    if (enabled && changed) this.dropPending();
    this.#wasEnabled[0] = enabled ? 1 : 0;
    this.#sync(0, this.vectors.length);
    if (changed) this.enabledChanged();
  }

  /** Forgets signals that were not sent: all pending bits are 0 then. */
  dropPending(): void {
    for (const { eventfd } of this.vectors) drainEventfd(eventfd);
  }

  read(offset: number, size: number): number {
    if (size !== 4 || offset % 4 !== 0) return 0;
    if (offset < this.#table.byteLength) return this.#table.getUint32(offset, true);
    if (offset < MSIX_PENDING_OFFSET) return 0;
    return this.#pending((offset - MSIX_PENDING_OFFSET) * 8);
  }

  write(offset: number, size: number, value: number): void {
    if (size !== 4 || offset % 4 !== 0 || offset >= this.#table.byteLength) return;
    const vector = offset >> 4;
    const isControl = offset % 16 === ENTRY_CONTROL;
    const stored = isControl ? value & pci.PCI_MSIX_ENTRY_CTRL_MASKBIT : value;
    if (this.#table.getUint32(offset, true) === stored) return;
    this.#table.setUint32(offset, stored, true);
    // A guest that changes an unmasked entry gets what §6.8.3.5 leaves undefined: here, at once.
    if (!isControl && this.#connected[vector] === 1) this.#disconnect(vector);
    this.#sync(vector, vector + 1);
  }

  #control(): number {
    return this.#config?.getUint16(this.#offset + CONTROL, true) ?? 0;
  }

  /** Pending bits of 32 vectors from `first` on. */
  #pending(first: number): number {
    let bits = 0;
    for (let i = 0; i < 32; i++) {
      const vector = this.vectors[first + i];
      if (vector === undefined) break;
      if (this.#connected[first + i] === 0 && this.#interrupts.isSignalled(vector.eventfd)) {
        bits |= 1 << i;
      }
    }
    return bits >>> 0;
  }

  #sync(first: number, end: number): void {
    const flags = pci.PCI_MSIX_FLAGS_ENABLE | pci.PCI_MSIX_FLAGS_MASKALL;
    const open = (this.#control() & flags) === pci.PCI_MSIX_FLAGS_ENABLE;
    for (let i = first; i < end; i++) {
      const masked = this.#table.getUint32(i * 16 + ENTRY_CONTROL, true) & 1;
      const wanted = open && masked === 0;
      if (wanted && this.#connected[i] === 0) this.#connect(i);
      else if (!wanted && this.#connected[i] === 1) this.#disconnect(i);
    }
  }

  #connect(index: number): void {
    const vector = this.vectors[index];
    if (vector === undefined) return;
    const low = this.#table.getUint32(index * 16, true);
    const high = this.#table.getUint32(index * 16 + 4, true);
    const data = this.#table.getUint32(index * 16 + 8, true);
    this.#connected[index] = 1;
    this.connecting(index);
    this.#interrupts.connectMsi(vector.gsi, vector.eventfd, high * 2 ** 32 + low, data);
  }

  #disconnect(index: number): void {
    const vector = this.vectors[index];
    if (vector === undefined) return;
    this.#connected[index] = 0;
    this.#interrupts.disconnectMsi(vector.gsi, vector.eventfd);
  }
}
