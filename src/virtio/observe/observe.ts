/** Wraps a device's data half in the requested observers. */
import type { QueueHandler } from '../device.ts';
import { CheckingHandler, type CheckOptions } from './check/checking-handler.ts';
import type { Observation } from './observation.ts';
import { TracingHandler } from './trace/tracing-handler.ts';

/**
 * The handler with its observers, innermost first: the check, then the trace, which thus
 * shows what reaches the rings.
 */
export function observe(
  handler: QueueHandler,
  observation: Observation | undefined,
  options: CheckOptions,
): QueueHandler {
  if (observation === undefined) return handler;
  let outer = handler;
  if (observation.check === true) outer = new CheckingHandler(outer, options);
  if (observation.trace !== undefined) {
    outer = new TracingHandler(outer, observation.trace, observation.device);
  }
  return outer;
}
