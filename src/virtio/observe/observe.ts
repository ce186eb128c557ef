/** Sets up the requested observers of a device's handler and registers. */
import type { QueueHandler } from '../device.ts';
import type { RegisterObserver } from '../register-observer.ts';
import { CheckingHandler, type CheckOptions } from './check/checking-handler.ts';
import { type CheckedDevice, RegisterChecker } from './check/checking-registers.ts';
import type { Breach, Observation } from './observation.ts';
import type { TraceWriter } from './trace/trace-ring.ts';
import { TracingHandler } from './trace/tracing-handler.ts';
import { traceRegisters } from './trace/tracing-registers.ts';

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

/** The requested observers of a device's registers. */
export interface RegisterWatch {
  /** Index of the device in its machine. */
  readonly device: number;
  readonly tracer: TraceWriter | undefined;
  readonly check: { readonly device: CheckedDevice; breach(breach: Breach): void } | undefined;
}

/** @returns undefined when there are none */
export function observeRegisters(watch: RegisterWatch): RegisterObserver | undefined {
  const { device, tracer, check } = watch;
  const trace = tracer && traceRegisters(tracer, device);
  const checker = check && new RegisterChecker(check.device, (breach) => check.breach(breach));
  if (trace === undefined || checker === undefined) return trace ?? checker?.observe;
  return (event) => {
    trace(event);
    checker.observe(event);
  };
}
