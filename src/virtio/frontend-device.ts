/** What a frontend must know about a kind of device: everything that its backend does not report. */
import type { QueueHandler, QueueSpec } from './device.ts';

/** A backend's offer. */
export interface BackendOffer {
  /** Virtio feature bits. */
  readonly features: bigint;
  /** The most queues (network: queue pairs) that it serves, if it reports them. */
  readonly maxQueues: number | undefined;
  /** Whether it has a configuration space. */
  readonly hasConfig: boolean;
  /** The first bytes of the configuration space. @throws PeerError */
  getConfig(length: number): Promise<Uint8Array>;
}

/** One device of a kind, as its first backend described it. */
export interface DeviceKind {
  /** virtio 1.3 §5. */
  readonly deviceId: number;
  /** 24 bits. */
  readonly pciClass: number;
  /** Of the backend's features for this kind of device, those that may be offered. */
  readonly backendFeatures: bigint;
  /** Features that the frontend implements itself. */
  readonly ownFeatures: bigint;
  readonly featureDependencies?: readonly (readonly [bit: number, needs: number])[];
  /** Those that the backend serves come first. */
  readonly queues: readonly QueueSpec[];
  /** How many of them it serves. */
  readonly servedQueues: number;
  /** True: its backends count queue pairs. */
  readonly countsPairs?: boolean;
  readonly config: Uint8Array;
  readonly configWriteMask?: Uint8Array;
  /** Reads a backend's current configuration. Absent: it has none. @throws PeerError */
  readConfig?(backend: BackendOffer): Promise<Uint8Array>;
  /** Makes the data half for the other queues. @param enable enables or disables a queue at the backend */
  createHandler?(enable: (queue: number, enabled: boolean) => void): QueueHandler;
  /** False for a queue that is not used yet. Absent: all are. */
  isEnabled?(queue: number): boolean;
  /** The driver reset the device. */
  reset?(): void;
}
