/**
 * One queue of an activated device, as its handler gets it. A hot handler writes its own loop over
 * `virtqueue` and ends each batch with `publish`; every other handler calls `serve`.
 */
import type { GuestMemory } from '../memory/guest-memory.ts';
import { DescriptorChain } from './queue/descriptor-chain.ts';
import { faultText, POP_CHAIN, POP_EMPTY, type Virtqueue } from './queue/virtqueue.ts';

/** Results of a `serve` function besides the bytes it wrote: the chain goes back to the queue, and serving ends; */
export const UNDO_POP = -1;
/** the chain is kept, and passed to `complete` later. */
export const KEEP_CHAIN = -2;

/** The surroundings of a queue. */
export interface QueueHost {
  readonly memory: GuestMemory;
  /** Interrupts the driver. */
  interrupt(queue: number): void;
  kickAgain(queue: number): void;
  /** As `HandlerContext.isInterrupted`. */
  isInterrupted?(): boolean;
  /** The driver broke a rule. */
  broken(reason: string): void;
}

function always(): boolean {
  return true;
}

/** From the handler's `start` to its `stop`. */
export class ActiveQueue {
  readonly virtqueue: Virtqueue;
  readonly host: QueueHost;
  /** Chains that are not kept; a device that answers each at once needs one. */
  readonly #free: DescriptorChain[] = [];

  constructor(virtqueue: Virtqueue, host: QueueHost) {
    this.virtqueue = virtqueue;
    this.host = host;
  }

  /** Makes the pushed chains visible to the driver, and interrupts it if it wants that. HOT. */
  publish(): void {
    if (this.virtqueue.publish()) this.host.interrupt(this.virtqueue.index);
  }

  /**
   * Calls the handler's `kick` again after the other pending events: for a handler
   * that leaves work behind, so that the rest of its thread gets a turn.
   */
  kickAgain(): void {
    this.host.kickAgain(this.virtqueue.index);
  }

  /**
   * Serves what the driver made available, one chain after another, until the queue is empty or the
   * budget is used up, and publishes the results; `kickAgain` handles the rest.
   * @param budget chains that are served before the rest of the thread gets its turn
   * @param answer processes a chain; returns the bytes written, UNDO_POP or KEEP_CHAIN
   * @param wants called before each chain; false ends serving, without enabling kicks. Default always
   * @returns false when the driver broke a rule of the ring, which has been reported
   */
  serve(
    budget: number,
    answer: (chain: DescriptorChain) => number,
    wants: () => boolean = always,
  ): boolean {
    const { virtqueue } = this;
    let left = budget;
    do {
      while (left > 0 && wants()) {
        const chain = this.#free.pop() ?? new DescriptorChain(this.host.memory);
        const popped = virtqueue.pop(chain);
        if (popped !== POP_CHAIN) {
          this.#free.push(chain);
          if (popped === POP_EMPTY) break;
          this.publish();
          this.host.broken(`queue ${virtqueue.index}: ${faultText(popped)}`);
          return false;
        }
        left--;
        const written = answer(chain);
        if (written >= 0) {
          this.complete(chain, written);
        } else if (written === UNDO_POP) {
          virtqueue.undoPop(chain);
          this.#free.push(chain);
          this.publish();
          return true;
        }
        // A pending command must not wait for everything a driver has queued.
        if (this.host.isInterrupted?.() === true) left = 0;
      }
      this.publish();
    } while (left > 0 && wants() && virtqueue.enableKicks());
    if (left === 0) this.kickAgain();
    return true;
  }

  /** Returns a chain that was kept to the driver; visible to it after `publish`. */
  complete(chain: DescriptorChain, written: number): void {
    this.virtqueue.push(chain.id, chain.slots, written);
    this.#free.push(chain);
  }
}
