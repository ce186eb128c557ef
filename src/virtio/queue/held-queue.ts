/** A virtqueue with a gate before it: chains pass one credit at a time, for interactive inspection. */
import type { DescriptorChain } from './descriptor-chain.ts';
import { POP_CHAIN, POP_EMPTY, type Virtqueue, type VringState } from './virtqueue.ts';

/** Takes no more chains than it has credits for; chains that were taken return to the driver normally. */
export class HeldQueue implements Virtqueue {
  readonly index: number;
  readonly size: number;
  readonly #queue: Virtqueue;
  #credits: number;

  /** @param credits how many chains may be taken */
  constructor(queue: Virtqueue, credits: number) {
    this.index = queue.index;
    this.size = queue.size;
    this.#queue = queue;
    this.#credits = credits;
  }

  pop(chain: DescriptorChain): number {
    if (this.#credits <= 0) return POP_EMPTY;
    const popped = this.#queue.pop(chain);
    if (popped === POP_CHAIN) this.#credits--;
    return popped;
  }

  undoPop(chain: DescriptorChain): void {
    this.#credits++;
    this.#queue.undoPop(chain);
  }

  push(id: number, slots: number, written: number): void {
    this.#queue.push(id, slots, written);
  }

  publish(): boolean {
    return this.#queue.publish();
  }

  /** Chains that may not be taken are no reason to pop again. */
  enableKicks(): boolean {
    const more = this.#queue.enableKicks();
    return more && this.#credits > 0;
  }

  disableKicks(): void {
    this.#queue.disableKicks();
  }

  state(): VringState {
    return this.#queue.state();
  }
}
