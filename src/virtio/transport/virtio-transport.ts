/** What carries a virtio device, whatever it is, to the device's owner. */
import type { DeviceRegisters } from './device-registers.ts';

/** All methods run with the register lock held. */
export interface VirtioTransport {
  readonly registers: DeviceRegisters;
  /** eventfd of each queue's driver notifications. */
  readonly kicks: readonly number[];
  /**
   * eventfd that stands for the level-triggered interrupt, which has a status register to go with
   * it: a signal leads to `assertQueueInterrupt`.
   */
  readonly lineEventfd: number;
  /** The eventfd to signal when a queue's buffers were used; -1 when the driver wants none. */
  callEventfd(queue: number): number;
  /** A queue was used whose `callEventfd` is `lineEventfd`. */
  assertQueueInterrupt(): void;
  /** Sends a configuration change notification (virtio 1.3 §2.3). */
  notifyConfigChange(): void;
}
