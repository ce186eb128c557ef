/** Writes a record of a driver's accesses to a device's registers. */
import type { RegisterObserver } from '../../register-observer.ts';
import * as record from './trace-record.ts';
import { whomOf } from './trace-record.ts';
import type { TraceWriter } from './trace-ring.ts';

/** One device's registers, traced. */
export class TracingRegisters implements RegisterObserver {
  readonly #writer: TraceWriter;
  readonly #device: number;

  /** @param writer of the thread that accesses the registers */
  constructor(writer: TraceWriter, device: number) {
    this.#writer = writer;
    this.#device = device;
  }

  statusWritten(before: number, value: number, after: number): void {
    this.#write(record.STATUS, before, value, after);
  }
  featuresRead(select: number, bits: number): void {
    this.#write(record.FEATURES_OFFERED, select, 0, bits >>> 0);
  }
  featuresWritten(select: number, bits: number): void {
    this.#write(record.FEATURES_ACCEPTED, select, 0, bits >>> 0);
  }
  queueWritten(): void {}
  queueSizeRefused(): void {}
  queueEnabled(queue: number, _status: number, size: number, area: number): void {
    this.#writer.write(record.QUEUE_ENABLED, whomOf(this.#device, queue), size, 0, area);
  }
  queueReset(queue: number): void {
    this.#writer.write(record.QUEUE_RESET, whomOf(this.#device, queue));
  }
  configRead(offset: number, size: number, value: number): void {
    this.#write(record.CONFIG_READ, offset, size, value >>> 0);
  }
  configWritten(offset: number, size: number, value: number): void {
    this.#write(record.CONFIG_WRITE, offset, size, value >>> 0);
  }
  readOnlyWritten(): void {}
  resetCompleted(): void {
    this.#write(record.DEVICE_RESET);
  }
  needsReset(): void {
    this.#write(record.NEEDS_RESET);
  }
  configChanged(): void {
    this.#write(record.CONFIG_CHANGED);
  }

  #write(what: number, a = 0, b = 0, x = 0): void {
    this.#writer.write(what, whomOf(this.#device), a, b, x);
  }
}
