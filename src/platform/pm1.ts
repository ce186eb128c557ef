/**
 * ACPI fixed hardware (ACPI 6.5 §4.8.3.1, §4.8.3.2): the PM1 event and control registers, through which a guest
 * learns of the buttons and the clock's alarm, and goes to sleep. All else of a PC's fixed hardware is optional.
 */
import type { RegisterRegion } from '../bus/address-space.ts';
import type { LineController } from '../bus/interrupt-controller.ts';
import type { SharedState } from '../state/shared-state.ts';
import { SCI_GSI, SLEEP_TYPE_S3, SLEEP_TYPE_S5 } from './layout.ts';
import type { PowerEvent } from './power.ts';

/** Bits of the status register, and of the enable register (Tables 4.12 and 4.13). */
export const PM1_GLOBAL = 1 << 5;
export const PM1_POWER_BUTTON = 1 << 8;
export const PM1_SLEEP_BUTTON = 1 << 9;
export const PM1_RTC = 1 << 10;
/** Only in the status register: the machine has been woken. */
export const PM1_WAKE = 1 << 15;
const STATUS_BITS = PM1_GLOBAL | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC | PM1_WAKE;
const ENABLE_BITS = PM1_GLOBAL | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC;

/** Offsets of the registers, of two bytes each. */
const ENABLE = 2;
const CONTROL = 4;

/** Bits of the control register (Table 4.14). There is no other mode to change to: SCI_EN is always set. */
const SCI_EN = 1 << 0;
const SLP_TYP_SHIFT = 10;
const SLP_TYP_MASK = 7;
const SLP_EN = 1 << 13;

const W_STATUS = 0;
const W_ENABLE = 1;
const W_CONTROL = 2;
const W_LINE = 3;
const WORDS = 4;

/** The registers, one block of six bytes. They run with the register lock held, except `raise`, which takes it. */
export class Pm1 implements RegisterRegion {
  readonly #state: SharedState;
  readonly #interrupts: LineController;
  readonly #happened: (event: PowerEvent) => void;
  readonly #words: Int32Array;

  /** @param happened the guest has gone to sleep, or off */
  constructor(
    state: SharedState,
    interrupts: LineController,
    happened: (event: PowerEvent) => void,
  ) {
    this.#state = state;
    this.#interrupts = interrupts;
    this.#happened = happened;
    this.#words = state.words(WORDS);
  }

  /** Power-on state: nothing has happened, and nothing is enabled. */
  reset(): void {
    this.#words.fill(0);
  }

  /** Notes that something happened, and notifies the guest if it wants to know. @param events PM1_* */
  raise(events: number): void {
    this.#state.lock.with(() => this.note(events));
  }

  /** `raise` for callers that hold the lock. */
  note(events: number): void {
    this.#words[W_STATUS] = this.#get(W_STATUS) | events;
    this.#updateLine();
  }

  /** What has happened of that which the guest enabled: it wakes a guest that sleeps. */
  get pending(): number {
    return this.#get(W_STATUS) & this.#get(W_ENABLE);
  }

  read(offset: number, size: number): number {
    let value = 0;
    for (let at = size - 1; at >= 0; at--) value = value * 256 + this.#readByte(offset + at);
    return value;
  }

  write(offset: number, size: number, value: number): void {
    for (let at = 0; at < size; at++) this.#writeByte(offset + at, (value >>> (8 * at)) & 0xff);
    this.#updateLine();
  }

  #get(word: number): number {
    return this.#words[word] ?? 0;
  }

  #readByte(offset: number): number {
    const shift = 8 * (offset & 1);
    if (offset < ENABLE) return (this.#get(W_STATUS) >>> shift) & 0xff;
    if (offset < CONTROL) return (this.#get(W_ENABLE) >>> shift) & 0xff;
    return ((this.#get(W_CONTROL) | SCI_EN) >>> shift) & 0xff;
  }

  #writeByte(offset: number, byte: number): void {
    const shift = 8 * (offset & 1);
    const bits = byte << shift;
    if (offset < ENABLE) {
      // Writing ones clears.
      this.#words[W_STATUS] = this.#get(W_STATUS) & ~bits & STATUS_BITS;
    } else if (offset < CONTROL) {
      this.#words[W_ENABLE] = ((this.#get(W_ENABLE) & ~(0xff << shift)) | bits) & ENABLE_BITS;
    } else {
      // SLP_EN reads as 0.
      this.#words[W_CONTROL] = ((this.#get(W_CONTROL) & ~(0xff << shift)) | bits) & ~SLP_EN;
      if ((bits & SLP_EN) !== 0) this.#sleep((bits >> SLP_TYP_SHIFT) & SLP_TYP_MASK);
    }
  }

  #sleep(type: number): void {
    if (type === SLEEP_TYPE_S5) this.#happened('power-off');
    if (type === SLEEP_TYPE_S3) this.#happened('suspend');
  }

  #updateLine(): void {
    const level = this.pending === 0 ? 0 : 1;
    if (level === this.#get(W_LINE)) return;
    this.#words[W_LINE] = level;
    this.#interrupts.setLine(SCI_GSI, level === 1);
  }
}
