/**
 * A virtqueue that keeps an inflight record. Chains that an earlier owner of the record left
 * in it are taken again, before anything else.
 *
 * HOT. No system call, no allocation.
 */
import type { DescriptorChain } from '../descriptor-chain.ts';
import { POP_CHAIN, type Virtqueue, type VringState } from '../virtqueue.ts';

/** More than a queue can have in flight. */
const MANY = 0xffff;

/** Left-over chains, as a queue of their own. */
export interface Leftover {
  /** Chains in it. */
  readonly count: number;
  readonly queue: Virtqueue;
}

/** Wraps the queue; the two formats record different things. */
export abstract class TrackedQueue implements Virtqueue {
  readonly index: number;
  readonly size: number;
  protected readonly queue: Virtqueue;
  /** The source of the left-over chains; their number is how many are still to be taken. */
  readonly #leftover: Virtqueue | undefined;
  #left: number;
  /** Chains taken after the left-over ones and not given back; counted up to MANY. */
  #fresh = 0;

  constructor(queue: Virtqueue, leftover?: Leftover) {
    this.index = queue.index;
    this.size = queue.size;
    this.queue = queue;
    this.#leftover = leftover?.queue;
    this.#left = leftover?.count ?? 0;
  }

  /** A chain was taken. */
  protected abstract taken(chain: DescriptorChain): void;
  /** A left-over chain was taken. */
  protected abstract takenAgain(chain: DescriptorChain): void;
  /** The chain taken last is about to be given back. */
  protected abstract givenBack(chain: DescriptorChain): void;
  /** As `givenBack`, for a left-over one: it stays in flight. */
  protected abstract givenBackAgain(chain: DescriptorChain): void;

  pop(chain: DescriptorChain): number {
    if (this.#left > 0) return this.#popLeftover(chain);
    const popped = this.queue.pop(chain);
    if (popped === POP_CHAIN) {
      this.taken(chain);
      if (this.#fresh < MANY) this.#fresh++;
    }
    return popped;
  }

  undoPop(chain: DescriptorChain): void {
    if (this.#fresh === 0 && this.#leftover !== undefined) {
      this.givenBackAgain(chain);
      this.#leftover.undoPop(chain);
      this.#left++;
      return;
    }
    this.#fresh--;
    this.givenBack(chain);
    this.queue.undoPop(chain);
  }

  abstract push(id: number, slots: number, written: number): void;
  abstract publish(): boolean;

  enableKicks(): boolean {
    const more = this.queue.enableKicks();
    return more || this.#left > 0;
  }

  disableKicks(): void {
    this.queue.disableKicks();
  }

  suppressKicks(suppressed: boolean): boolean {
    return this.queue.suppressKicks?.(suppressed) === true;
  }

  peekAvailable(): number {
    return this.queue.peekAvailable?.() ?? -1;
  }

  /** A left-over chain that was given back counts as taken, as it did at the start. */
  state(): VringState {
    return this.queue.state();
  }

  #popLeftover(chain: DescriptorChain): number {
    const popped = this.#leftover?.pop(chain) ?? 0;
    // A queue that reports "empty" where chains are known to be: it has reported its fault before.
    if (popped !== POP_CHAIN) return popped;
    this.#left--;
    this.takenAgain(chain);
    return popped;
  }
}
