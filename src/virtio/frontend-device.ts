/** What a frontend must know about a kind of device: everything that its backend does not report. */
import { deviceTypeName } from '../abi/virtio-names.ts';
import { UsageError } from '../host/errors.ts';
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
  /** What the backend gets of the guest's memory. Default `all`. */
  readonly share?: ShareMode | undefined;
}

/** All of the guest's memory, or copies of what is in the queues. */
export type ShareMode = 'all' | 'shadow';

/** Connects to a backend, and makes the device that it serves. @throws UsageError */
export type ConnectFrontend = (
  name: string,
  address: BackendAddress,
  kindOf: (backend: BackendOffer) => Promise<DeviceKind>,
) => Promise<VirtioDevice>;

/** Which vDPA device: the one behind a file, or one to be made for as long as it is used. */
export type ParentAddress =
  | { readonly path: string }
  | {
      /** The management device that makes it, as `vdpa mgmtdev show` names it. */
      readonly mgmtdev: string;
      /** What it is called on this host. */
      readonly name: string;
    };

/** Opens a vDPA device of this host, and makes the device that its queues serve. @throws UsageError or HostError */
export type OpenParent = (
  name: string,
  address: ParentAddress,
  kindOf: (parent: ParentOffer) => Promise<DeviceKind>,
) => Promise<VirtioDevice>;

/** How to get devices whose queues are served elsewhere. */
export interface Connect {
  /** By another process, over the vhost-user protocol. */
  readonly vhostUser: ConnectFrontend;
  /** By a vDPA device of this host, through vhost-vdpa. */
  readonly vdpa: OpenParent;
}

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

/** A vDPA device's offer: it also says what it is. */
export interface ParentOffer extends BackendOffer {
  /** Of its file. */
  readonly path: string;
  /** virtio 1.3 §5. */
  readonly deviceId: number;
  readonly queueCount: number;
  /** The most descriptors of a queue. */
  readonly queueSize: number;
  readonly configSize: number;
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

const OWNS_RAM = 'it decides what RAM the guest has';
/** Device IDs (virtio 1.3 §5) of types that need more of a VMM than queues and a configuration space. */
const NOT_CARRIED: Readonly<Record<number, string>> = {
  5: OWNS_RAM,
  13: OWNS_RAM,
  18: 'its configuration has to answer each write of the driver at once',
  23: 'it translates the addresses of other devices',
  24: OWNS_RAM,
  27: OWNS_RAM,
};
/** PCI device IDs end there (§4.1.2). */
const DEVICE_ID_MAX = 63;

function checkCarried(deviceId: number): void {
  const known = deviceId >= 1 && deviceId <= DEVICE_ID_MAX;
  const why = known ? NOT_CARRIED[deviceId] : `device IDs are 1 to ${DEVICE_ID_MAX}`;
  if (why === undefined) return;
  const name = deviceTypeName(deviceId);
  const type = name === undefined ? `${deviceId}` : `${deviceId} (${name})`;
  throw new UsageError(
    'E_DEVICE_TYPE',
    `a device of type ${type} cannot be served elsewhere: ${why}`,
    'use a device of another type',
  );
}

/**
 * Any device: identified by its device ID, the rest is the backend's.
 * @throws UsageError when it needs more than a backend can do; PeerError
 */
export async function otherKind(backend: BackendOffer, device: OtherDevice): Promise<DeviceKind> {
  const { deviceId, queues, queueSize, configSize } = device;
  checkCarried(deviceId);
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
