/**
 * The registers behind ACPI hotplug, which the DSDT's methods use (ACPI 6.5 §5.6.6, §6.3.3): three words with a bit for each
 * place, such as a slot of PCI bus 0.
 *
 * | offset | read | written |
 * | --- | --- | --- |
 * | 0 UP | the places that got something, cleared by the read | |
 * | 4 DOWN | what is asked back, cleared by the read | |
 * | 8 EJECT | what can be ejected | ejects it |
 */
import type { RegisterRegion } from '../bus/address-space.ts';
import type { SharedState } from '../state/shared-state.ts';

/** Bytes of the registers. */
export const HOTPLUG_SIZE = 12;

const UP = 0;
const DOWN = 1;
const EJECTABLE = 2;
/** The guest gave them up, and the owner has not taken note yet. */
const EJECTED = 3;
const WORDS = 4;
/** Of the first place, which is always taken. Its bit in UP: look at all places. */
const ALL = 1;

function placesOf(bits: number): number[] {
  return Array.from({ length: 32 }, (_, place) => place).filter(
    (place) => (bits & (1 << place)) !== 0,
  );
}

/** All methods run with the register lock held, in any thread. */
export class HotplugRegisters implements RegisterRegion {
  readonly #words: Int32Array;
  readonly #ejected: (places: readonly number[], isFirst: boolean) => void;

  /**
   * @param ejected called when the guest ejects something, once until something else is there; `isFirst`: the owner has
   *   taken note of all before
   */
  constructor(
    state: SharedState,
    ejected: (places: readonly number[], isFirst: boolean) => void = () => {},
  ) {
    this.#words = state.words(WORDS);
    this.#ejected = ejected;
  }

  /** Power-on state. @param ejectable what is there, and may be ejected */
  reset(ejectable: readonly number[] = []): void {
    this.#words.fill(0);
    for (const place of ejectable) this.#set(EJECTABLE, 1 << place);
  }

  /** A place got something, which the guest may eject. */
  plugged(place: number): void {
    this.#set(EJECTABLE, 1 << place);
    this.#set(UP, 1 << place);
  }

  /** Asks the guest to eject something, unless it has just done so. */
  askBack(place: number): void {
    this.#set(DOWN, (1 << place) & (this.#words[EJECTABLE] ?? 0));
  }

  /** The guest is asked no longer, if it has not looked yet. */
  withdraw(place: number): void {
    this.#clear(DOWN, 1 << place);
  }

  /** What was there is gone. @param unasked the guest is to look, and find out */
  removed(place: number, unasked: boolean): void {
    for (const word of [UP, DOWN, EJECTABLE, EJECTED]) this.#clear(word, 1 << place);
    if (unasked) this.#set(UP, ALL);
  }

  /** What the guest ejected since the last time. */
  takeEjected(): number[] {
    const ejected = this.#words[EJECTED] ?? 0;
    this.#words[EJECTED] = 0;
    return placesOf(ejected);
  }

  read(offset: number, size: number): number {
    if (size !== 4 || offset % 4 !== 0) return 0;
    const word = offset / 4;
    const bits = this.#words[word] ?? 0;
    if (word === UP || word === DOWN) this.#words[word] = 0;
    return word <= EJECTABLE ? bits >>> 0 : 0;
  }

  write(offset: number, size: number, value: number): void {
    if (size !== 4 || offset / 4 !== EJECTABLE) return;
    const before = this.#words[EJECTED] ?? 0;
    const ejected = value & (this.#words[EJECTABLE] ?? 0);
    if (ejected === 0) return;
    for (const word of [UP, DOWN, EJECTABLE]) this.#clear(word, ejected);
    this.#set(EJECTED, ejected);
    this.#ejected(placesOf(ejected), before === 0);
  }

  #set(word: number, bits: number): void {
    this.#words[word] = (this.#words[word] ?? 0) | bits;
  }

  #clear(word: number, bits: number): void {
    this.#words[word] = (this.#words[word] ?? 0) & ~bits;
  }
}
