/**
 * INTx (PCI 3.0 §2.2.6): level-triggered lines that several slots share. A line is high while any
 * of its functions asserts.
 */
import { PCI_COMMAND_INTX_DISABLE } from '../abi/pci.ts';
import type { MachinePort } from '../bus/machine-port.ts';
import type { SharedState } from '../state/shared-state.ts';
import type { PciFunction } from './function.ts';

/** The interrupt lines that the slots share; which slots assert is shared between threads. */
export class IntxLines {
  readonly #port: MachinePort;
  readonly #base: number;
  readonly #count: number;
  /** For each line, a bit for each slot that asserts it. */
  readonly #asserting: Int32Array;

  constructor(state: SharedState, port: MachinePort, base: number, count: number) {
    this.#port = port;
    this.#base = base;
    this.#count = count;
    this.#asserting = state.words(count);
  }

  /** The interrupt line of a slot. */
  gsi(slot: number): number {
    return this.#base + (slot % this.#count);
  }

  /** Asserts or releases a slot's pin. */
  set(slot: number, pciFunction: PciFunction, asserted: boolean): void {
    pciFunction.setInterruptStatus(asserted);
    const open = asserted && (pciFunction.command & PCI_COMMAND_INTX_DISABLE) === 0;
    const line = slot % this.#count;
    const old = this.#asserting[line] ?? 0;
    const next = open ? old | (1 << slot) : old & ~(1 << slot);
    if (next === old) return;
    this.#asserting[line] = next;
    if ((next !== 0) !== (old !== 0)) this.#port.setLine(this.#base + line, next !== 0);
  }
}
