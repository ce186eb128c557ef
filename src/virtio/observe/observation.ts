/** Observation of a device: what is requested, what is reported, and a handler under observation. */
import type { ActiveQueue } from '../active-queue.ts';
import type { HandlerContext, QueueHandler } from '../device.ts';

/** What observes a device's queues while they are served; a plain, cloneable message. */
export interface Observation {
  /** Index of the device in its machine, for records. */
  readonly device: number;
  /** Ring of records that the thread serving the queues writes: see trace-ring.ts. */
  readonly trace?: SharedArrayBuffer;
  /** Check the rules of virtio. */
  readonly check?: boolean;
}

/** A breach of a rule of virtio; likewise. */
export interface Breach {
  /** Which side broke it. */
  readonly side: 'driver' | 'device';
  /** Identifies the rule; reported once per device and queue. */
  readonly rule: string;
  /** Index of the queue; absent when none is concerned. */
  readonly queue?: number;
  /** One line: what happened, with the clause. */
  readonly text: string;
  /** The relevant part of the ring, in lines; empty when there is none. */
  readonly dump: readonly string[];
}

/**
 * A data half under observation. It replaces the handler that it wraps, and puts a
 * wrapper around each queue: so a device without observers pays nothing. Wrappers nest.
 * Passes everything on; observers override what they need to see.
 */
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
