/**
 * The watchdog timer of Intel's 6300ESB I/O controller hub (data sheet 300641-004 §15), which Linux drives as i6300esb:
 * two stages, of which the second one resets the machine. Registers lie in the state buffer.
 *
 * Left out: the interrupt of the first stage, which Linux turns off, and the free running mode of the second.
 */
import type { RegisterRegion } from '../bus/address-space.ts';
import type { SharedState } from '../state/shared-state.ts';

/** Offsets in the memory BAR, of 32-bit registers; RELOAD has 16 bits. */
const PRELOAD1 = 0x00;
const PRELOAD2 = 0x04;
const GENERAL_INTERRUPT_STATUS = 0x08;
const RELOAD = 0x0c;
const PRELOAD_BITS = 0xf_ffff;
/** RELOAD: restart the timer; the machine was reset by it. */
const WDT_RELOAD = 1 << 8;
const WDT_TIMEOUT = 1 << 9;
/** Two writes to RELOAD that precede a write to any of the registers (§15.2.5). */
const UNLOCK1 = 0x80;
const UNLOCK2 = 0x86;

/** WDT Configuration, at 0x60 in configuration space. */
export const CONFIGURATION = 0x60;
export const CONFIGURATION_WRITABLE = 0x27;
/** The time base: the PCI clock of 33 MHz divided by 2^5 when set, else by 2^15. */
const WDT_FREQUENCY = 1 << 2;
/** The second stage resets nothing. */
const WDT_OUTPUT_DISABLE = 1 << 5;
/** WDT Lock, at 0x68: its own bit keeps it from being written until the next reset. */
export const LOCK = 0x68;
const WDT_LOCK = 1 << 0;
const WDT_ENABLE = 1 << 1;
export const LOCK_WRITABLE = 0x07;

const PCI_CLOCK_KHZ = 33_333;

const W_PRELOAD1 = 0;
const W_PRELOAD2 = 1;
const W_UNLOCKED = 2;
const W_TIMED_OUT = 3;
const W_ENABLED = 4;
const W_LOCKED = 5;
const W_CONFIGURATION = 6;
/** The owner waits for a deadline. */
const W_ARMED = 7;
const WORDS = 8;

const T_DEADLINE = 0;
const T_ARMED_FOR = 1;
const TIMES = 2;

/** What the timer runs on. */
export interface WatchdogClock {
  /** Milliseconds of a clock that is never set, the same in all threads. */
  monotonicMs(): number;
  /** Has the owner look at `deadlineMs`, on the main thread. */
  changed(): void;
}

/** The registers, as each thread has them. They run with the register lock held. */
export class WatchdogRegisters implements RegisterRegion {
  readonly #clock: WatchdogClock;
  readonly #words: Int32Array;
  readonly #times: Float64Array;

  constructor(state: SharedState, clock: WatchdogClock) {
    this.#clock = clock;
    this.#words = state.words(WORDS);
    const times = state.bytes(TIMES * Float64Array.BYTES_PER_ELEMENT);
    this.#times = new Float64Array(times.buffer, times.byteOffset, TIMES);
  }

  /** Power-on state. @param timedOut the watchdog has caused the reset */
  powerOn(timedOut = false): void {
    this.#words.fill(0);
    this.#words[W_PRELOAD1] = PRELOAD_BITS;
    this.#words[W_PRELOAD2] = PRELOAD_BITS;
    this.#words[W_TIMED_OUT] = timedOut ? 1 : 0;
    this.#times.fill(Infinity);
  }

  /** When the second stage ends, by the clock; Infinity while the timer does not run. */
  get deadlineMs(): number {
    return this.#words[W_ENABLED] === 1 ? (this.#times[T_DEADLINE] ?? Infinity) : Infinity;
  }

  /** Whether the second stage does something. */
  get resets(): boolean {
    return ((this.#words[W_CONFIGURATION] ?? 0) & WDT_OUTPUT_DISABLE) === 0;
  }

  /** The owner looks at the deadline again at that time; Infinity: when `changed` is called. */
  armed(forMs: number): void {
    this.#words[W_ARMED] = forMs === Infinity ? 0 : 1;
    this.#times[T_ARMED_FOR] = forMs;
  }

  /** Time did not pass for the guest. */
  postpone(ms: number): void {
    this.#times[T_DEADLINE] = (this.#times[T_DEADLINE] ?? Infinity) + ms;
  }

  read(offset: number, size: number): number {
    const value = this.#read(offset & ~3) >>> (8 * (offset & 3));
    return size === 4 ? value >>> 0 : value & (2 ** (8 * size) - 1);
  }

  write(offset: number, _size: number, value: number): void {
    if (offset === RELOAD && (value === UNLOCK1 || value === UNLOCK2)) {
      this.#unlock(value);
      return;
    }
    const unlocked = this.#words[W_UNLOCKED] === 2;
    this.#words[W_UNLOCKED] = 0;
    if (!unlocked) return;
    if (offset === PRELOAD1) this.#words[W_PRELOAD1] = value & PRELOAD_BITS;
    if (offset === PRELOAD2) this.#words[W_PRELOAD2] = value & PRELOAD_BITS;
    if (offset !== RELOAD) return;
    if ((value & WDT_TIMEOUT) !== 0) this.#words[W_TIMED_OUT] = 0;
    if ((value & WDT_RELOAD) !== 0) this.#restart();
  }

  /** WDT Configuration was written. */
  configure(value: number): void {
    this.#words[W_CONFIGURATION] = value;
  }

  /** WDT Lock was written. @returns what it holds now */
  lock(value: number): number {
    if (this.#words[W_LOCKED] !== 1) {
      const enabled = (value & WDT_ENABLE) === 0 ? 0 : 1;
      const started = enabled === 1 && this.#words[W_ENABLED] !== 1;
      this.#words[W_ENABLED] = enabled;
      this.#words[W_LOCKED] = (value & WDT_LOCK) === 0 ? 0 : 1;
      if (started) this.#restart();
    }
    const locked = this.#words[W_LOCKED] === 1 ? WDT_LOCK : 0;
    return locked | (this.#words[W_ENABLED] === 1 ? WDT_ENABLE : 0);
  }

  #unlock(value: number): void {
    const step = this.#words[W_UNLOCKED] ?? 0;
    if (value === UNLOCK1) this.#words[W_UNLOCKED] = 1;
    else this.#words[W_UNLOCKED] = step === 1 ? 2 : 0;
  }

  #read(register: number): number {
    if (register === PRELOAD1) return this.#words[W_PRELOAD1] ?? 0;
    if (register === PRELOAD2) return this.#words[W_PRELOAD2] ?? 0;
    if (register === GENERAL_INTERRUPT_STATUS) return 0;
    return this.#words[W_TIMED_OUT] === 1 ? WDT_TIMEOUT : 0;
  }

  /**
   * Restarts both stages. The owner is notified only when it would look too late, so that a guest which
   * restarts the timer without end costs it nothing.
   */
  #restart(): void {
    const configuration = this.#words[W_CONFIGURATION] ?? 0;
    const divider = (configuration & WDT_FREQUENCY) === 0 ? 2 ** 15 : 2 ** 5;
    // §15.2.1: each preload value is less by one than what is counted.
    const ticks = (this.#words[W_PRELOAD1] ?? 0) + (this.#words[W_PRELOAD2] ?? 0) + 2;
    const deadline = this.#clock.monotonicMs() + (ticks * divider) / PCI_CLOCK_KHZ;
    this.#times[T_DEADLINE] = deadline;
    if (this.#words[W_ENABLED] !== 1) return;
    if (this.#words[W_ARMED] === 1 && deadline >= (this.#times[T_ARMED_FOR] ?? 0)) return;
    this.armed(deadline);
    this.#clock.changed();
  }
}
