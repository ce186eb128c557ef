/** What a frontend has to know of a kind of device: all that its backend does not tell. */
import type { QueueHandler, QueueSpec } from './device.ts';

/** What a backend offers. */
export interface BackendOffer {
  /** Virtio feature bits. */
  readonly features: bigint;
  /** The most queues (network: queue pairs) that it serves, if it says. */
  readonly maxQueues: number | undefined;
  /** Whether it has a configuration space. */
  readonly hasConfig: boolean;
  /** The first bytes of the configuration space. @throws PeerError */
  getConfig(length: number): Promise<Uint8Array>;
}

/** One device of a kind, as its first backend made it. */
export interface DeviceKind {
  /** virtio 1.3 §5. */
  readonly deviceId: number;
  /** 24 bits. */
  readonly pciClass: number;
  /** Of the backend's features for this kind of device, those that may be offered. */
  readonly backendFeatures: bigint;
  /** Features that the frontend has by itself. */
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
  /** The configuration as a backend tells it now. Absent: it does not. @throws PeerError */
  readConfig?(backend: BackendOffer): Promise<Uint8Array>;
  /** Makes what serves the other queues, on the main thread. @param enable has a queue of the backend served, or not */
  createHandler?(enable: (queue: number, enabled: boolean) => void): QueueHandler;
  /** False for a queue that is not used yet. Absent: all are. */
  isEnabled?(queue: number): boolean;
  /** The driver reset the device. */
  reset?(): void;
}
