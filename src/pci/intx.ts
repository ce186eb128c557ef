/**
 * INTx (PCI 3.0 §2.2.6): level-triggered lines that several slots share. A line is high while any
 * of its functions asserts.
 */
import { PCI_COMMAND_INTX_DISABLE, PCI_STATUS_INTERRUPT, pci_type0_header } from '../abi/pci.ts';
import type { MachinePort } from '../bus/machine-port.ts';
import type { SharedState } from '../state/shared-state.ts';
import type { PciFunction } from './function.ts';

const { command, status } = pci_type0_header;

/** Drives interrupt lines. */
export type LinePort = Pick<MachinePort, 'setLine'>;

/** What a thread without a bus needs to drive one slot's pin; a plain, cloneable message. */
export interface IntxPinShare {
  readonly slot: number;
  readonly gsi: number;
  /** One word: a bit for each slot that asserts the line. */
  readonly asserting: Int32Array;
  /** The function's configuration space. */
  readonly config: DataView;
}

/** One slot's pin. */
export class IntxPin {
  readonly #share: IntxPinShare;
  readonly #port: LinePort;

  constructor(share: IntxPinShare, port: LinePort) {
    this.#share = share;
    this.#port = port;
  }

  /** Asserts or releases it; the status register shows it, disabled or not. */
  set(asserted: boolean): void {
    const { slot, gsi, asserting, config } = this.#share;
    const rest = config.getUint8(status.offset) & ~PCI_STATUS_INTERRUPT;
    config.setUint8(status.offset, asserted ? rest | PCI_STATUS_INTERRUPT : rest);
    const disabled = config.getUint16(command.offset, true) & PCI_COMMAND_INTX_DISABLE;
    const old = asserting[0] ?? 0;
    const next = asserted && disabled === 0 ? old | (1 << slot) : old & ~(1 << slot);
    if (next === old) return;
    asserting[0] = next;
    if ((next !== 0) !== (old !== 0)) this.#port.setLine(gsi, next !== 0);
  }
}

/** The interrupt lines that the slots share; which slots assert is shared between threads. */
export class IntxLines {
  readonly #port: MachinePort;
  readonly #base: number;
  readonly #count: number;
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

  /** A slot's pin as another thread can have it. */
  share(slot: number, { config }: PciFunction): IntxPinShare {
    const line = slot % this.#count;
    const asserting = this.#asserting.subarray(line, line + 1);
    return { slot, gsi: this.gsi(slot), asserting, config };
  }

  /** A slot's pin, in this thread. */
  pin(slot: number, pciFunction: PciFunction): IntxPin {
    return new IntxPin(this.share(slot, pciFunction), this.#port);
  }
}
