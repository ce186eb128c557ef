/**
 * A data half under observation. It replaces the handler that it wraps, and puts a
 * wrapper around each queue: so a device without observers pays nothing. Wrappers nest.
 */
import type { ActiveQueue } from '../active-queue.ts';
import type { HandlerContext, QueueHandler } from '../device.ts';

/** Passes everything on; observers override what they need to see. */
export class ObservedHandler implements QueueHandler {
  readonly #inner: QueueHandler;
  readonly message?: (message: unknown) => void;
  readonly drain?: (queues: readonly number[]) => Promise<void> | undefined;

  /** @param inner the handler under observation */
  constructor(inner: QueueHandler) {
    this.#inner = inner;
    if (inner.message !== undefined) this.message = (message) => inner.message?.(message);
    if (inner.drain !== undefined) this.drain = (queues) => inner.drain?.(queues);
  }

  start(context: HandlerContext): void {
    this.#inner.start({
      ...context,
      queues: context.queues.map((queue) => (queue === undefined ? queue : this.wrap(queue))),
    });
  }

  kick(queue: number): void {
    this.#inner.kick(queue);
  }

  ready(token: number, events: number): void {
    this.#inner.ready?.(token, events);
  }

  stop(): void {
    this.#inner.stop();
  }

  /** The queue that the inner handler gets. */
  protected wrap(queue: ActiveQueue): ActiveQueue {
    return queue;
  }
}
