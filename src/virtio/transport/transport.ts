/** A transport's view of a device, and its connection to the device's owner. */
import type { RegisterObserver } from '../register-observer.ts';
import type { DeviceRegisters } from './device-registers.ts';

/** Where a driver notifies the first queue, and what becomes of its write; for display. */
export interface NotifyPlace {
  readonly space: 'port' | 'memory';
  readonly address: number;
  /** `ioeventfd`: KVM signals the queue's eventfd. `exit`: a vCPU thread does. `hardware`: it is the device's own register. */
  readonly by: 'ioeventfd' | 'exit' | 'hardware';
}

/** How a device interrupts: MSI-X messages, its INTx pin, or the line of a device that is not on PCI. */
export type InterruptKind = 'msi-x' | 'intx' | 'line';

/** A device's transport. All methods run with the register lock held. */
export interface VirtioTransport {
  readonly registers: DeviceRegisters;
  /** eventfd of each queue's driver notifications. */
  readonly kicks: readonly number[];
  /**
   * eventfd for the level-triggered interrupt, which has a status register to go with
   * it: a signal leads to `assertQueueInterrupt`.
   */
  readonly lineEventfd: number;
  /** Where the driver can notify queues now, the preferred place first. */
  readonly notifyPlaces: readonly NotifyPlace[];
  readonly interruptKind: InterruptKind;
  /** The eventfd to signal when a queue's buffers were used; -1 when the driver wants none. */
  callEventfd(queue: number): number;
  /** A queue was used whose `callEventfd` is `lineEventfd`. */
  assertQueueInterrupt(): void;
  /** Sends a configuration change notification (virtio 1.3 §2.3). */
  notifyConfigChange(): void;
}

/** The shape of a device that a transport shows; a plain, cloneable message. */
export interface DeviceShape {
  readonly name: string;
  readonly deviceId: number;
  /** All offered feature bits, ring features included. */
  readonly features: bigint;
  /** Those that the driver has to accept, besides VIRTIO_F_VERSION_1. Default none. */
  readonly requiredFeatures?: bigint;
  /** Pairs of feature bits: the first may only be accepted with the second. */
  readonly featureDependencies: readonly (readonly [number, number])[];
  /** The largest size of each queue. */
  readonly queueSizes: readonly number[];
  /** Initial configuration space. */
  readonly config: Uint8Array;
  readonly configWriteMask: Uint8Array;
  /**
   * Offset of a field whose every write counts, not only the last: each carries a byte
   * (`emerg_wr`, virtio 1.3 §5.3.4).
   */
  readonly emergencyWrite?: number;
}

/** Notifications to the thread that owns the device. */
export interface DriverEvents {
  /** The driver caused something; not repeated until `DeviceRegisters.changes` are taken. */
  changed(): void;
  /** The observer of the registers; absent: none. */
  readonly observer?: RegisterObserver;
}
