/**
 * What a driver made happen and the device's owner has not looked at yet. However often a driver
 * repeats something, the owner has one message at most that it has not answered. All methods run with
 * the register lock held, in any thread.
 */
import type { SharedState } from '../../state/shared-state.ts';

/** DRIVER_OK was set. */
export const CHANGE_DRIVER_OK = 1;
/** 0 was written to the status; it reads back as before until `completeReset`. */
export const CHANGE_RESET = 2;
/**
 * A queue was enabled after DRIVER_OK (VIRTIO_F_RING_RESET), or is to be reset: that reads back as
 * ongoing until `completeQueueReset`.
 */
export const CHANGE_QUEUES = 4;
/** Served queues interrupt elsewhere now. */
export const CHANGE_INTERRUPTS = 8;
/** Writable bytes of the configuration were written. */
export const CHANGE_CONFIG = 16;

/** CHANGE_ bits of one device; a reset of the device leaves them. */
export class PendingChanges {
  readonly #word: Int32Array;
  readonly #changed: () => void;

  /** @param changed sends the owner a message */
  constructor(state: SharedState, changed: () => void) {
    this.#word = state.words(1);
    this.#changed = changed;
  }

  add(change: number): void {
    const before = this.#word[0] as number;
    this.#word[0] = before | change;
    if (before === 0) this.#changed();
  }

  /** The owner is about to look. */
  take(): number {
    const changes = this.#word[0] as number;
    this.#word[0] = 0;
    return changes;
  }
}
