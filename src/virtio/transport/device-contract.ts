/** What a transport is told of a device, and what it tells the device's owner. */

import type { RegisterObserver } from '../register-observer.ts';

/** What a transport shows of a device; a plain, cloneable message. */
export interface DeviceShape {
  readonly name: string;
  readonly deviceId: number;
  /** All offered feature bits, ring features included. */
  readonly features: bigint;
  /** Pairs of feature bits: the first may only be accepted with the second. */
  readonly featureDependencies: readonly (readonly [number, number])[];
  /** The largest size of each queue. */
  readonly queueSizes: readonly number[];
  /** Initial configuration space. */
  readonly config: Uint8Array;
  readonly configWriteMask: Uint8Array;
}

/** What the driver made happen, for the thread that owns the device. */
export interface DriverEvents {
  /** DRIVER_OK was set. */
  driverOk(): void;
  /** 0 was written to the status; it reads back as before until `completeReset`. */
  reset(): void;
  /** A queue was enabled after DRIVER_OK (VIRTIO_F_RING_RESET). */
  queueEnabled(queue: number): void;
  /** A queue is to be reset; reads back as ongoing until `completeQueueReset`. */
  queueReset(queue: number): void;
  /** Writable bytes of the configuration were written; `value` is all that was, little-endian. */
  configWritten(offset: number, length: number, value: number): void;
  /** Served queues interrupt elsewhere now; not told again until `interruptsSeen`. */
  interruptsChanged(): void;
  /** Who watches the registers; absent: nobody. */
  readonly observer?: RegisterObserver;
}
