/**
 * INTx (PCI 3.0 §2.2.6): level-triggered lines that several slots share. A line is high while any
 * of its functions asserts.
 */
import { PCI_COMMAND_INTX_DISABLE, PCI_STATUS_INTERRUPT, pci_type0_header } from '../abi/pci.ts';
import {
  InterruptLine,
  InterruptLines,
  type LineController,
  type LineShare,
} from '../bus/interrupt-controller.ts';
import type { SharedState } from '../state/shared-state.ts';
import type { PciFunction } from './function.ts';

const { command, status } = pci_type0_header;

/** What a thread without a bus needs to drive one slot's pin; a plain, cloneable message. */
export interface IntxPinShare {
  readonly line: LineShare;
  /** The function's configuration space. */
  readonly config: DataView;
}

/** One slot's pin. */
export class IntxPin {
  readonly #line: InterruptLine;
  readonly #config: DataView;

  constructor({ line, config }: IntxPinShare, interrupts: LineController) {
    this.#line = new InterruptLine(line, interrupts);
    this.#config = config;
  }

  /** Asserts or releases it; the status register shows it, disabled or not. */
  set(asserted: boolean): void {
    const config = this.#config;
    const rest = config.getUint8(status.offset) & ~PCI_STATUS_INTERRUPT;
    config.setUint8(status.offset, asserted ? rest | PCI_STATUS_INTERRUPT : rest);
    const disabled = config.getUint16(command.offset, true) & PCI_COMMAND_INTX_DISABLE;
    this.#line.set(asserted && disabled === 0);
  }
}

/** The interrupt lines that the slots share; which slots assert is shared between threads. */
export class IntxLines {
  readonly #interrupts: LineController;
  readonly #lines: InterruptLines;

  constructor(state: SharedState, interrupts: LineController, base: number, count: number) {
    this.#interrupts = interrupts;
    this.#lines = new InterruptLines(state, interrupts, base, count);
  }

  /** The interrupt line of a slot. */
  gsi(slot: number): number {
    return this.#lines.gsi(slot);
  }

  /** A slot's pin as another thread can have it. */
  share(slot: number, { config }: PciFunction): IntxPinShare {
    return { line: this.#lines.share(slot), config };
  }

  /** A slot's pin, in this thread. */
  pin(slot: number, pciFunction: PciFunction): IntxPin {
    return new IntxPin(this.share(slot, pciFunction), this.#interrupts);
  }
}
