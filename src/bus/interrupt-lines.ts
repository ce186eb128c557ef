/**
 * Level-triggered interrupt lines that several devices share: a line is high while any of its
 * devices asserts it. Which do is shared between threads; all runs with the register lock held.
 */
import type { SharedState } from '../state/shared-state.ts';
import type { MachinePort } from './machine-port.ts';

/** Drives interrupt lines. */
export type LinePort = Pick<MachinePort, 'setLine'>;

/** What a thread needs to drive a line for one device; a plain, cloneable message. */
export interface LineShare {
  /** The device's number among those that share the lines, 0 to 31. */
  readonly source: number;
  readonly gsi: number;
  /** One word: a bit for each device that asserts the line. */
  readonly asserting: Int32Array;
}

/** One device's end of a line. */
export class InterruptLine {
  readonly #share: LineShare;
  readonly #port: LinePort;

  constructor(share: LineShare, port: LinePort) {
    this.#share = share;
    this.#port = port;
  }

  /** Asserts or releases it. */
  set(asserted: boolean): void {
    const { source, gsi, asserting } = this.#share;
    const old = asserting[0] ?? 0;
    const next = asserted ? old | (1 << source) : old & ~(1 << source);
    if (next === old) return;
    asserting[0] = next;
    if ((next !== 0) !== (old !== 0)) this.#port.setLine(gsi, next !== 0);
  }
}

/** A group of lines, on which devices take turns by their numbers. */
export class InterruptLines {
  readonly #port: LinePort;
  readonly #base: number;
  readonly #count: number;
  readonly #asserting: Int32Array;

  /** @param base GSI of the first line */
  constructor(state: SharedState, port: LinePort, base: number, count: number) {
    this.#port = port;
    this.#base = base;
    this.#count = count;
    this.#asserting = state.words(count);
  }

  /** The line that a device has. */
  gsi(source: number): number {
    return this.#base + (source % this.#count);
  }

  /** A device's end as another thread can have it. */
  share(source: number): LineShare {
    const at = source % this.#count;
    return { source, gsi: this.gsi(source), asserting: this.#asserting.subarray(at, at + 1) };
  }

  /** A device's end, in this thread. */
  line(source: number): InterruptLine {
    return new InterruptLine(this.share(source), this.#port);
  }
}
