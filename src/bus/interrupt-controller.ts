/**
 * What register files ask of the machine, with the register lock held: message-signaled
 * interrupts, doorbells, and level-triggered lines, which several devices share. The machine
 * implements it with KVM; tests have their own.
 */
import type { SharedState } from '../state/shared-state.ts';

/** Interrupts and doorbells. */
export interface InterruptController {
  /** Drives a level-triggered interrupt line. */
  setLine(gsi: number, level: boolean): void;
  /** Makes an eventfd raise a message-signaled interrupt by way of the route `gsi`. */
  connectMsi(gsi: number, eventfd: number, address: number, data: number): void;
  /** Undoes `connectMsi`; from then on signals stay pending in the eventfd. */
  disconnectMsi(gsi: number, eventfd: number): void;
  /**
   * Makes guest writes to an address signal an eventfd, without an exit.
   * @param value only 32-bit writes of this value. Default: all writes of any width
   */
  addDoorbell(address: number, isPort: boolean, eventfd: number, value?: number): void;
  removeDoorbell(address: number, isPort: boolean, eventfd: number): void;
  /** True when an eventfd holds a signal that was not consumed. */
  isSignalled(eventfd: number): boolean;
  /** Releases the register lock until a shared word has another value, then takes it again. */
  waitWhile(words: Int32Array, index: number, value: number): void;
}

/** The part that drives interrupt lines. */
export type LineController = Pick<InterruptController, 'setLine'>;

/** What a thread needs to drive a line for one device; can be posted to it. */
export interface LineShare {
  /** The device's number among those that share the lines, 0 to 31. */
  readonly source: number;
  readonly gsi: number;
  /** One word: a bit for each device that asserts the line. */
  readonly asserting: Int32Array;
}

/**
 * One device's end of a line, which is high while any of its devices asserts it. Which do is
 * shared between threads.
 */
export class InterruptLine {
  readonly #share: LineShare;
  readonly #interrupts: LineController;

  constructor(share: LineShare, interrupts: LineController) {
    this.#share = share;
    this.#interrupts = interrupts;
  }

  /** Asserts or releases it. */
  set(asserted: boolean): void {
    const { source, gsi, asserting } = this.#share;
    const old = asserting[0] ?? 0;
    const next = asserted ? old | (1 << source) : old & ~(1 << source);
    if (next === old) return;
    asserting[0] = next;
    if ((next !== 0) !== (old !== 0)) this.#interrupts.setLine(gsi, next !== 0);
  }
}

/** A group of lines, to which devices are assigned in turn by their numbers. */
export class InterruptLines {
  readonly #interrupts: LineController;
  readonly #base: number;
  readonly #count: number;
  readonly #asserting: Int32Array;

  /** @param base GSI of the first line */
  constructor(state: SharedState, interrupts: LineController, base: number, count: number) {
    this.#interrupts = interrupts;
    this.#base = base;
    this.#count = count;
    this.#asserting = state.words(count);
  }

  /** The line that a device has. */
  gsi(source: number): number {
    return this.#base + (source % this.#count);
  }

  /** A device's end, for another thread. */
  share(source: number): LineShare {
    const at = source % this.#count;
    return { source, gsi: this.gsi(source), asserting: this.#asserting.subarray(at, at + 1) };
  }

  /** A device's end, in this thread. */
  line(source: number): InterruptLine {
    return new InterruptLine(this.share(source), this.#interrupts);
  }
}
