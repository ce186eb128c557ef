/** What a frontend must know about a kind of device: everything that its backend does not report. */
import type { QueueHandler, QueueSpec, VirtioDevice } from './device.ts';

/** How to reach a backend. */
export interface BackendAddress {
  /** Path of the socket. */
  readonly socket: string;
  /** True: the backend connects to us. */
  readonly server: boolean;
  /** For each reply, and for the backend to connect. */
  readonly timeoutMs: number;
  /** A user besides root and ourselves whose backend may access the guest's memory. */
  readonly peerUid?: number | undefined;
}

/** Connects to a backend, and makes the device that it serves. @throws UsageError */
export type ConnectFrontend = (
  name: string,
  address: BackendAddress,
  kindOf: (backend: BackendOffer) => Promise<DeviceKind>,
) => Promise<VirtioDevice>;

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

/** PCI: unclassified. */
const PCI_CLASS_OTHERS = 0x00_ff00;
/** virtio 1.3 §2.2: bits 0 to 23 and from 50 on are the device type's; there are 64 here. */
const DEVICE_FEATURES = BigInt.asUintN(64, ~((1n << 50n) - (1n << 24n)));

/** A device of which only the ID is known: what that leaves open. */
export interface OtherDevice {
  /** virtio 1.3 §5. */
  readonly deviceId: number;
  readonly queues: number;
  readonly queueSize: number;
  /** Bytes; 0: it has none. */
  readonly configSize: number;
}

/** Any device: identified by its device ID, the rest is the backend's. @throws PeerError */
export async function otherKind(backend: BackendOffer, device: OtherDevice): Promise<DeviceKind> {
  const { deviceId, queues, queueSize, configSize } = device;
  const shape = {
    deviceId,
    pciClass: PCI_CLASS_OTHERS,
    backendFeatures: backend.features & DEVICE_FEATURES,
    ownFeatures: 0n,
    queues: Array.from({ length: queues }, (_, i) => ({ name: `queue${i}`, maxSize: queueSize })),
    servedQueues: queues,
  };
  if (configSize === 0) return { ...shape, config: new Uint8Array(0) };
  return {
    ...shape,
    config: await backend.getConfig(configSize),
    // Which bytes may be written is up to the backend.
    configWriteMask: new Uint8Array(configSize).fill(0xff),
    readConfig: (current) => current.getConfig(configSize),
  };
}
