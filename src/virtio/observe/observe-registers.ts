/** Combines the observers of a device's registers. */
import type { RegisterObserver } from '../register-observer.ts';
import { type CheckedDevice, CheckingRegisters } from './check/checking-registers.ts';
import type { Breach } from './observation.ts';
import type { TraceWriter } from './trace/trace-ring.ts';
import { TracingRegisters } from './trace/tracing-registers.ts';

/** The requested observers of a device's registers. */
export interface RegisterWatch {
  /** Index of the device in its machine. */
  readonly device: number;
  readonly tracer: TraceWriter | undefined;
  readonly check: { readonly device: CheckedDevice; breach(breach: Breach): void } | undefined;
}

/** @returns undefined when there are none */
export function observeRegisters({
  device,
  tracer,
  check,
}: RegisterWatch): RegisterObserver | undefined {
  const tracing = tracer === undefined ? undefined : new TracingRegisters(tracer, device);
  const checking =
    check === undefined
      ? undefined
      : new CheckingRegisters(check.device, (breach) => check.breach(breach));
  if (tracing === undefined || checking === undefined) return tracing ?? checking;
  return both(tracing, checking);
}

function both(a: RegisterObserver, b: RegisterObserver): RegisterObserver {
  return {
    statusWritten: (...all) => {
      a.statusWritten(...all);
      b.statusWritten(...all);
    },
    featuresRead: (...all) => {
      a.featuresRead(...all);
      b.featuresRead(...all);
    },
    featuresWritten: (...all) => {
      a.featuresWritten(...all);
      b.featuresWritten(...all);
    },
    queueWritten: (...all) => {
      a.queueWritten(...all);
      b.queueWritten(...all);
    },
    queueSizeRefused: (...all) => {
      a.queueSizeRefused(...all);
      b.queueSizeRefused(...all);
    },
    queueEnabled: (...all) => {
      a.queueEnabled(...all);
      b.queueEnabled(...all);
    },
    queueReset: (...all) => {
      a.queueReset(...all);
      b.queueReset(...all);
    },
    configRead: (...all) => {
      a.configRead(...all);
      b.configRead(...all);
    },
    configWritten: (...all) => {
      a.configWritten(...all);
      b.configWritten(...all);
    },
    readOnlyWritten: (...all) => {
      a.readOnlyWritten(...all);
      b.readOnlyWritten(...all);
    },
    resetCompleted: () => {
      a.resetCompleted();
      b.resetCompleted();
    },
    needsReset: () => {
      a.needsReset();
      b.needsReset();
    },
    configChanged: () => {
      a.configChanged();
      b.configChanged();
    },
  };
}
