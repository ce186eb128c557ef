/** Puts together who watches a device's registers. */
import type { RegisterObserver } from '../register-observer.ts';
import type { TraceWriter } from './trace-ring.ts';
import { TracingRegisters } from './tracing-registers.ts';

/** @returns undefined when nobody does */
export function observeRegisters(
  device: number,
  tracer: TraceWriter | undefined,
): RegisterObserver | undefined {
  return tracer === undefined ? undefined : new TracingRegisters(tracer, device);
}
