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
  /**
   * Offset of a field of which every write counts and not the last alone: each carries a byte
   * (`emerg_wr`, virtio 1.3 §5.3.4).
   */
  readonly emergencyWrite?: number;
}

/** What the thread that owns the device is told. */
export interface DriverEvents {
  /** The driver made something happen; not told again until `DeviceRegisters.changes` are taken. */
  changed(): void;
  /** Who watches the registers; absent: nobody. */
  readonly observer?: RegisterObserver;
}
