/** Puts the observers that are asked for around a device's data half. */
import type { QueueHandler } from '../device.ts';
import type { QueueConfig } from '../queue/virtqueue.ts';
import type { Breach, Observation } from './observation.ts';
import { TracingHandler } from './tracing-handler.ts';

/** What observers may know of the queues, and whom they tell. */
export interface ObservedGround {
  readonly features: bigint;
  readonly queues: readonly QueueConfig[];
  breach(breach: Breach): void;
}

/**
 * The handler with its observers, innermost first: what holds a device back stands next to it, the
 * trace outermost, so that it shows what reaches the rings.
 */
export function observe(
  handler: QueueHandler,
  observation: Observation | undefined,
  _ground: ObservedGround,
): QueueHandler {
  if (observation === undefined) return handler;
  let outer = handler;
  if (observation.trace !== undefined) {
    outer = new TracingHandler(outer, observation.trace, observation.device);
  }
  return outer;
}
