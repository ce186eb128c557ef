/**
 * Power and events: how a guest powers off, reboots or reports a panic, and how it learns that its
 * power button was pressed.
 */
import type { RegisterRegion } from '../bus/address-space.ts';
import type { LineController } from '../bus/interrupt-controller.ts';
import type { SharedState } from '../state/shared-state.ts';
import { GED_GSI, RESET_VALUE, SLEEP_TYPE_S5 } from './layout.ts';

/** What the guest requested. */
export type PowerEvent = 'power-off' | 'reboot' | 'panic';

const SLP_EN = 0x20;
const SLP_TYP_SHIFT = 2;
const SLP_TYP_MASK = 0x1c;

/** ACPI sleep control and status, and the FADT's reset register (ACPI 6.5 §4.8.3.6, §4.8.3.7). */
export function createPowerRegisters(happened: (event: PowerEvent) => void): RegisterRegion {
  return {
    read: () => 0,
    write: (offset, _size, value) => {
      const sleep = value & (SLP_EN | SLP_TYP_MASK);
      if (offset === 0 && sleep === (SLP_EN | (SLEEP_TYPE_S5 << SLP_TYP_SHIFT))) {
        happened('power-off');
      }
      if (offset === 2 && value === RESET_VALUE) happened('reboot');
    },
  };
}

/** i8042 command: pulse the line that resets the CPU. */
const PULSE_RESET_LINE = 0xfe;

/** The keyboard controller's command port, as far as it resets the machine. */
export function createKeyboardController(happened: (event: PowerEvent) => void): RegisterRegion {
  return {
    read: () => 0,
    write: (_offset, _size, value) => {
      if (value === PULSE_RESET_LINE) happened('reboot');
    },
  };
}

const PVPANIC_PANICKED = 1;
const PVPANIC_CRASHLOADED = 2;

/**
 * pvpanic: one port by which Linux reports a kernel panic. One that a crash kernel was loaded for
 * is not the end: that kernel runs next.
 */
export function createPvpanic(happened: (event: PowerEvent) => void): RegisterRegion {
  return {
    read: () => PVPANIC_PANICKED | PVPANIC_CRASHLOADED,
    write: (_offset, _size, value) => {
      if ((value & PVPANIC_PANICKED) !== 0) happened('panic');
    },
  };
}

/** The power button was pressed. */
export const GED_POWER_BUTTON = 0x01;
/** Devices came to PCI bus 0, or are asked back: see `HotplugRegisters`. */
export const GED_PCI_HOTPLUG = 0x10;

/**
 * The Generic Event Device of a hardware-reduced machine (ACPI 6.5 §5.6.9): one interrupt, and a
 * register of one byte from which the guest's `_EVT` method reads what has happened. Runs with the
 * register lock held, except `raise`, which takes it.
 */
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

  /** Notifies the guest. @param event one of GED_* */
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
