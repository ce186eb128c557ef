/** The data half of a device with one queue, whose requests are answered at once. */
import type { ActiveQueue } from './active-queue.ts';
import type { HandlerContext, QueueHandler } from './device.ts';
import type { DescriptorChain } from './queue/descriptor-chain.ts';

/** Serves the queue. */
export abstract class RequestHandler implements QueueHandler {
  /** Requests that are served before the rest of the thread gets its turn. */
  protected abstract readonly budget: number;
  #queue: ActiveQueue | undefined;

  start({ queues }: HandlerContext): void {
    this.#queue = queues[0];
  }

  kick(): void {
    this.#queue?.serve(this.budget, (chain) => this.answer(chain));
  }

  stop(): void {
    this.#queue = undefined;
  }

  /** @returns bytes written into the chain */
  protected abstract answer(chain: DescriptorChain): number;
}
