/**
 * When the data half of an 82540EM interrupts: at once, or with ITR set so that two interrupts have
 * its time between them (SDM 13.4, ITR). Causes that arrive meanwhile are signaled together.
 *
 * HOT: `raise`.
 */
import { ITR } from '../abi/e1000.ts';
import { Timerfd } from '../host/fd.ts';
import type { IntxPin } from '../pci/intx.ts';
import type { RegisterLock } from '../state/shared-state.ts';
import type { RegisterFile } from './register-file.ts';

/** What ITR counts, in milliseconds. */
const ITR_UNIT_MS = 256e-6;
const NANOSECONDS_PER_MS = 1e6;

/** Interrupt causes on their way to the driver. */
export class Interrupts {
  readonly #file: RegisterFile;
  readonly #lock: RegisterLock;
  readonly #pin: IntxPin;
  readonly #now: () => number;
  readonly #timer = new Timerfd();
  /** Causes that wait for the time to be over. */
  #held = 0;
  #armed = false;
  #last = Number.NEGATIVE_INFINITY;

  /** @param now milliseconds of a clock that never goes back */
  constructor(file: RegisterFile, lock: RegisterLock, pin: IntxPin, now: () => number) {
    this.#file = file;
    this.#lock = lock;
    this.#pin = pin;
    this.#now = now;
  }

  /** Readable when `expired` is to be called. */
  get timerFd(): number {
    return this.#timer.fd;
  }

  /** Interrupts the driver for causes, now or later. The gate is not held. */
  raise(causes: number): void {
    this.#held |= causes;
    if (this.#held === 0) return;
    const interval = this.#file.get(ITR) * ITR_UNIT_MS;
    const wait = interval === 0 ? 0 : this.#last + interval - this.#now();
    if (wait > 0) {
      if (this.#armed) return;
      this.#armed = true;
      this.#timer.arm(Math.ceil(wait * NANOSECONDS_PER_MS));
      return;
    }
    this.#signal();
  }

  /** The timer is readable. */
  expired(): void {
    if (!this.#timer.drain()) return;
    this.#armed = false;
    this.raise(0);
  }

  /** The driver disabled or reset the device: pending causes are stale. */
  forget(): void {
    this.#held = 0;
  }

  /** Raises pending causes, and releases the timer. */
  close(): void {
    if (this.#held !== 0) this.#signal();
    this.#timer.close();
  }

  #signal(): void {
    const causes = this.#held;
    this.#held = 0;
    if (!this.#file.raise(causes)) return;
    this.#last = this.#now();
    this.#lock.acquire();
    try {
      // A vCPU may have acknowledged or masked it meanwhile.
      this.#pin.set(this.#file.interrupting);
    } finally {
      this.#lock.release();
    }
  }
}
