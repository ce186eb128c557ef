/**
 * The contract of a device type: everything that the API, the command line, `serve`, help and documentation
 * need to know about one. Each device's folder exports one; `machine/devices/device-types.ts` lists them.
 */
import { choice, flag, number, type OptionSchema, options } from '../options/option-schema.ts';
import type { VirtioDevice } from './device.ts';
import type { Connect } from './frontend-device.ts';

/** Ring features that may be switched for each device, to measure their effects (virtio 1.3 §6). */
export interface RingOptions {
  /** Offer packed queues, VIRTIO_F_RING_PACKED. Default false. */
  readonly packed?: boolean;
  /** Offer VIRTIO_F_INDIRECT_DESC. Default true. */
  readonly indirect?: boolean;
  /** Offer VIRTIO_F_EVENT_IDX. Default true. */
  readonly eventIdx?: boolean;
  /** Offer VIRTIO_F_IN_ORDER. Default false. */
  readonly inOrder?: boolean;
  /** Offer VIRTIO_F_NOTIFICATION_DATA. Default false. */
  readonly notificationData?: boolean;
  /** Offer VIRTIO_F_RING_RESET. Default true. */
  readonly ringReset?: boolean;
  /** Descriptors of each queue, a power of two. Default: chosen by the device. */
  readonly queueSize?: number;
}

/**
 * The transport of a virtio device: a function on the PCI bus, or a window of memory (virtio 1.3 §4.1,
 * §4.2; docs/mmio.md).
 */
export type TransportName = 'pci' | 'mmio';

/** Whether the host kernel serves a device's queues. */
export type VhostMode = 'on' | 'off' | 'auto';

/** Whether a device is behind the machine's IOMMU. */
export type IommuMode = 'on' | 'off' | 'auto';

/**
 * How the thread that serves a device's queues waits for the driver: asleep until it is kicked; looking at the
 * rings for a while after each piece of work, and then asleep; or always looking at them.
 */
export type PollMode = 'off' | 'adaptive' | 'always';

/** Options of all virtio devices: their transport and ring features, and whether they are behind the IOMMU. */
export interface CarriedOptions {
  /** Default: that of the machine. */
  readonly transport?: TransportName;
  readonly ring?: RingOptions;
  /**
   * Whether the device is behind the machine's IOMMU (docs/iommu.md). Default `auto`: if the machine has one, and what
   * serves the device can follow it.
   */
  readonly iommu?: IommuMode;
}

/** Options of virtio devices that this process serves. */
export interface PolledOptions extends CarriedOptions {
  /**
   * Whether the serving thread looks at the rings itself, instead of being woken by the driver's kicks, which it suppresses
   * meanwhile: for a while after each piece of work (`adaptive`), or all the time, which takes a whole CPU (`always`).
   * Default `off`; in `nodevmm serve`, for disks, networks, and folders: `adaptive`.
   */
  readonly poll?: PollMode;
}

const isQueueSize = (size: number): boolean =>
  Number.isInteger(size) && size >= 2 && size <= 32768 && (size & (size - 1)) === 0;

export const TRANSPORTS: readonly TransportName[] = ['pci', 'mmio'];
const TRANSPORT: OptionSchema<TransportName> = choice(TRANSPORTS, {
  code: 'E_TRANSPORT',
});

export const RING: OptionSchema<RingOptions> = options<RingOptions>(
  {},
  {
    packed: flag(),
    indirect: flag({ on: true }),
    eventIdx: flag({ on: true }),
    inOrder: flag(),
    notificationData: flag(),
    ringReset: flag({ on: true }),
    queueSize: number(isQueueSize, {
      code: 'E_QUEUE_SIZE',
      expected: 'a power of two from 2 to 32768',
    }),
  },
  { hidden: true },
);

export const IOMMU: OptionSchema<IommuMode> = choice(['on', 'off', 'auto']);
/** Of a virtio device that is not behind an IOMMU itself. */
export const TRANSPORTED = { transport: TRANSPORT, ring: RING };
export const CARRIED = { ...TRANSPORTED, iommu: IOMMU };
/** `CARRIED`, and how the serving thread waits. */
export const POLLED = { ...CARRIED, poll: choice<PollMode>(['off', 'adaptive', 'always']) };
export const VHOST: OptionSchema<VhostMode> = choice(['on', 'off', 'auto']);

/** The context in which a device is made, besides its options. */
export interface DeviceContext {
  /** For messages, threads and commands: `blk0`. */
  readonly name: string;
  /** Its index among those of its type, from 0, and how many there are. */
  readonly index: number;
  readonly count: number;
  /** Descriptors of each queue, when its ring options set it. */
  readonly queueSize?: number;
}

/** One implementation of a device type: its options, and how to create it. */
export interface DeviceBackend<Device = VirtioDevice> {
  /** For messages and documentation: `file`. */
  readonly name: string;
  /** The option that selects this backend, by its presence or by a value. Absent: it is the default. */
  readonly selector?: { readonly option: string; readonly value?: string };
  /** Selects it on the command line, instead of the first key's value. */
  readonly cliName?: string;
  /**
   * What reaches guest RAM besides this process and its kernel: another process (`shared`), hardware that has all of it
   * locked (`locked`), or a second mapping of this process, page by page (`paged`). Absent: nothing.
   */
  ram?(options: object): 'shared' | 'locked' | 'paged' | undefined;
  readonly options: OptionSchema;
  /** The keys that `serve` adds when they are left out. Absent: it cannot be served. */
  readonly served?: Readonly<Record<string, string>>;
  /** The name of its devices, where that is not the type's. */
  prefix?(options: object): string;
  /** Checks that no schema covers. @throws UsageError */
  check?(options: object): void;
  /**
   * @param options its own: without transport, ring and vhost
   * @param connect for a device whose queues are served elsewhere
   * @throws UsageError or HostError, in one line, when it cannot be made
   */
  create(options: object, context: DeviceContext, connect: Connect): Device | Promise<Device>;
}

/** A machine's options for its devices: the folder of each type adds the one that it is for. */
export interface MachineDeviceOptions {
  /** The transport of virtio devices that do not set one. Default `pci`. */
  readonly transport?: TransportName;
}

/** A type of device. */
export interface DeviceType<Device = VirtioDevice> {
  /** The name of its devices, before a number; also for `serve`. */
  readonly name: string;
  /** In a few words, for help: `a disk`. */
  readonly summary: string;
  /** Its key among a machine's options. */
  readonly key: string;
  /** A machine has any number of them, one on request, one unless disabled, or always one, which it makes itself. */
  readonly number: 'any' | 'on-request' | 'by-default' | 'always';
  /** Its option on the command line, and the placeholder of its value. Absent: unlike other devices. */
  readonly cli?: {
    readonly option: string;
    readonly value: string;
    /** The value may be left out. */
    readonly bare?: boolean;
  };
  /** The key of the first part of a text, and the one with `serve` where that differs. */
  readonly firstKey: string;
  readonly servedFirstKey?: string;
  /** The default one first. */
  readonly backends: readonly DeviceBackend<Device>[];
}
