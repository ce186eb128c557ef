/** The data half of a device whose backend gets copies instead of guest memory (`shadow-datapath.ts`). */
import { drainEventfd } from '../../host/fd.ts';
import { type HandlerContext, type QueueHandler, READABLE } from '../../virtio/device.ts';
import type { DescriptorChain } from '../../virtio/queue/descriptor-chain.ts';
import type { ShadowPlaces } from './shadow-layout.ts';
import { ShadowQueue } from './shadow-queue.ts';

/** Options of `createHandler`; cloneable. */
export interface ShadowHandlerOptions {
  /** Host virtual address of the shadow memory. */
  readonly address: number;
  /** By queue. */
  readonly queues: readonly ShadowEnds[];
}

/** A shadow ring and its eventfds. */
export interface ShadowEnds {
  readonly places: ShadowPlaces;
  /** Signals the backend. */
  readonly kickFd: number;
  /** The backend signals it. */
  readonly callFd: number;
}

/** For a queue worker. */
export function createHandler(options: unknown): QueueHandler {
  return new ShadowHandler(options as ShadowHandlerOptions);
}

class ShadowHandler implements QueueHandler {
  readonly #options: ShadowHandlerOptions;
  #queues: (ShadowQueue | undefined)[] = [];
  /** Queues that resume after the stop that follows. */
  #continuing: readonly number[] = [];
  /** By queue: chains in flight when it was stopped. */
  #kept: ReadonlyMap<number, readonly DescriptorChain[]> = new Map();

  constructor(options: ShadowHandlerOptions) {
    this.#options = options;
  }

  start(context: HandlerContext): void {
    const { address, queues } = this.#options;
    this.#queues = queues.map(({ places, kickFd, callFd }, index) => {
      const active = context.queues[index];
      if (active === undefined) return undefined;
      drainEventfd(callFd);
      context.reactor.watch(callFd, READABLE, index);
      const kept = this.#kept.get(index) ?? [];
      return new ShadowQueue(active, context, address, places, kickFd, kept);
    });
    this.#kept = new Map();
  }

  kick(queue: number): void {
    this.#queues[queue]?.take();
  }

  ready(queue: number): void {
    drainEventfd(this.#options.queues[queue]?.callFd ?? -1);
    this.#queues[queue]?.reap();
  }

  drain(queues: readonly number[]): undefined {
    this.#continuing = queues;
  }

  stop(): void {
    const kept = new Map<number, readonly DescriptorChain[]>();
    for (const [index, queue] of this.#queues.entries()) {
      const chains = queue?.stop(this.#continuing.includes(index)) ?? [];
      if (chains.length > 0) kept.set(index, chains);
    }
    this.#kept = kept;
    this.#queues = [];
    this.#continuing = [];
  }

  reset(): void {
    this.#kept = new Map();
  }
}
