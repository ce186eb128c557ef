/** Writes a record of a driver's accesses to a device's registers. */
import type { RegisterObserver } from '../../register-observer.ts';
import * as record from './trace-record.ts';
import type { TraceWriter } from './trace-ring.ts';

/** Traces one device's registers. @param writer of the thread that accesses them */
export function traceRegisters(writer: TraceWriter, device: number): RegisterObserver {
  const write = (what: number, a = 0, b = 0, x = 0, queue?: number): void =>
    writer.write(what, record.whomOf(device, queue), a, b, x);
  return (event) => {
    switch (event.what) {
      case 'status':
        return write(record.STATUS, event.before, event.value, event.after);
      case 'features read':
        return write(record.FEATURES_OFFERED, event.select, 0, event.bits >>> 0);
      case 'features written':
        return write(record.FEATURES_ACCEPTED, event.select, 0, event.bits >>> 0);
      case 'queue enabled':
        return write(record.QUEUE_ENABLED, event.size, 0, event.area, event.queue);
      case 'queue reset':
        return write(record.QUEUE_RESET, 0, 0, 0, event.queue);
      case 'config read':
        return write(record.CONFIG_READ, event.offset, event.size, event.value >>> 0);
      case 'config written':
        return write(record.CONFIG_WRITE, event.offset, event.size, event.value >>> 0);
      case 'reset completed':
        return write(record.DEVICE_RESET);
      case 'needs reset':
        return write(record.NEEDS_RESET);
      case 'config changed':
        return write(record.CONFIG_CHANGED);
    }
  };
}
