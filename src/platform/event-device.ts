/**
 * The Generic Event Device of a hardware-reduced machine (ACPI 6.5 §5.6.9): one interrupt, and a
 * register that tells the guest's `_EVT` method what has happened.
 */
import type { RegisterRegion } from '../bus/address-space.ts';
import type { LineController } from '../bus/interrupt-controller.ts';
import type { SharedState } from '../state/shared-state.ts';
import { GED_GSI } from './layout.ts';

/** The power button was pressed. */
export const GED_POWER_BUTTON = 0x01;

/** One byte; runs with the register lock held, but for `raise`, which takes it. */
export class EventDevice implements RegisterRegion {
  readonly #state: SharedState;
  readonly #interrupts: LineController;
  readonly #pending: Int32Array;

  constructor(state: SharedState, interrupts: LineController) {
    this.#state = state;
    this.#interrupts = interrupts;
    this.#pending = state.words(1);
  }

  /** Power-on state: nothing has happened. */
  reset(): void {
    this.#pending[0] = 0;
  }

  /** Tells the guest. @param event one of GED_* */
  raise(event: number): void {
    this.#state.lock.with(() => {
      this.#pending[0] = (this.#pending[0] ?? 0) | event;
      this.#interrupts.setLine(GED_GSI, true);
      this.#interrupts.setLine(GED_GSI, false);
    });
  }

  read(): number {
    const pending = this.#pending[0] ?? 0;
    this.#pending[0] = 0;
    return pending;
  }

  write(): void {}
}
