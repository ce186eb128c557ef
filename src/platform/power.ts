/** How a guest reboots or reports a panic, and how it learns of events that no fixed hardware has. */
import type { RegisterRegion } from '../bus/address-space.ts';
import type { LineController } from '../bus/interrupt-controller.ts';
import type { SharedState } from '../state/shared-state.ts';
import { GED_GSI, RESET_VALUE } from './layout.ts';

/** What the guest requested; `watchdog`: what it failed to prevent. */
export type PowerEvent = 'power-off' | 'suspend' | 'reboot' | 'panic' | 'watchdog';

/** The FADT's reset register (ACPI 6.5 §4.8.3.6). */
export function createResetRegister(happened: (event: PowerEvent) => void): RegisterRegion {
  return {
    read: () => 0,
    write: (_offset, _size, value) => {
      if (value === RESET_VALUE) happened('reboot');
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

/** The machine has become another one: its generation ID has changed. */
export const GED_GENERATION = 0x01;
/** Devices came to PCI bus 0, or are asked back: see `HotplugRegisters`. */
export const GED_PCI_HOTPLUG = 0x10;
/** The same of CPUs. */
export const GED_CPU_HOTPLUG = 0x20;

/**
 * The Generic Event Device (ACPI 6.5 §5.6.9): one interrupt, and a
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
