/** The ways in which a guest ends or restarts its run, and tells of a panic. */
import type { RegisterRegion } from '../bus/address-space.ts';
import { RESET_VALUE, SLEEP_TYPE_S5 } from './layout.ts';

/** What the guest asked for. */
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
 * pvpanic: one port by which Linux tells of a kernel panic. One that a crash kernel was loaded for
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
