/**
 * The contract between a virtio device and whatever carries it. A device is two halves: a control
 * half on the main thread (`VirtioDevice`), and a data half (`QueueHandler`) that serves the
 * queues in the main thread or in a queue worker. Neither knows a transport.
 */
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { ActiveQueue } from './active-queue.ts';

/** A queue that a device has. */
export interface QueueSpec {
  readonly name: string;
  /** The most descriptors that the driver may set: a power of two, at most 32768. */
  readonly maxSize: number;
}

/** The operations that a device's carrier offers its control half. */
export interface DeviceHost {
  /**
   * Changes the device configuration space: the driver sees all or nothing of it (config
   * generation, virtio 1.3 §4.1.4.3.1), and gets a configuration change notification.
   * @param quiet without the notification. Default false
   */
  updateConfig(change: (config: DataView) => void, quiet?: boolean): void;
  /** The current configuration space, including the driver's writes. */
  readConfig(): Uint8Array;
  /**
   * Sends a cloneable message to the data half's `message`; dropped while it is not started.
   * @param key of several waiting messages with the same one, only the last arrives; default ''
   */
  post(message: unknown, key?: string): void;
}

/** Where the data half runs. */
export type HandlerThread =
  | { readonly kind: 'main' }
  | {
      /** A queue worker of its own. */
      readonly kind: 'worker';
      /** URL of the module whose `createHandler(options)` makes the data half in the worker. */
      readonly module: string;
      /** Cloneable options for it: numbers, strings, file descriptors. */
      readonly options: unknown;
    };

/**
 * What the host kernel's vhost can serve instead of the data half. `net`: queue pair n
 * on the tap queue of descriptor n. `vsock`: the receive and transmit queue of the guest
 * with a context ID.
 */
export type VhostSpec =
  | { readonly kind: 'net'; readonly taps: readonly number[] }
  | { readonly kind: 'vsock'; readonly cid: number };

/** What is behind a virtio device, for display. */
export interface BackendFacts {
  /** A path, or in a few words, such as `tap nodevmm0`. */
  readonly name: string;
  /** The system calls by which requests reach it; absent: none. */
  readonly calls?: string;
  /** Where a vDPA device's queues are served: by VDUSE in a process, by the host kernel, by hardware. */
  readonly place?: 'process' | 'kernel' | 'hardware';
  /** What serves the queues in another place has left. */
  readonly gone?: boolean;
  /** It gets copies of what is in the queues, and nothing else of the guest's memory. */
  readonly copies?: boolean;
}

/** Observes the requests of a device that are about more than data; see `--check` and `--trace`. */
export interface RequestObserver {
  /**
   * The driver broke a rule of the device type's own.
   * @param rule identifies it
   * @param text what happened, with the clause
   * @param note the request
   */
  breach?(rule: string, text: string, note: string): void;
  /** Writes a record of the trace, about the device as a whole; arguments as of `TraceWriter.write`. */
  record?(what: number, a: number, b: number, x: number, y: number): void;
}

/** A device's control half. One object is one device of one VM. */
export interface VirtioDevice {
  /** Short name for messages and threads, e.g. `blk0`. */
  readonly name: string;
  /** Device ID, virtio 1.3 §5. */
  readonly deviceId: number;
  /** PCI class code (24 bits), shown by transports over PCI. */
  readonly pciClass: number;
  /** Device-specific feature bits that are offered; ring and transport bits are the carrier's. */
  readonly features: bigint;
  /** Names of device-specific feature bits that the specification does not name, by bit. */
  readonly featureNames?: Readonly<Record<number, string>>;
  /** Pairs of feature bit numbers: the first may only be accepted together with the second. */
  readonly featureDependencies?: readonly (readonly [bit: number, needs: number])[];
  readonly queues: readonly QueueSpec[];
  /** The initial device configuration space (§2.5). */
  readonly config: Uint8Array;
  /** Which bytes of it the driver may write: 0xff where it may. Absent: none. */
  readonly configWriteMask?: Uint8Array;
  /** Offset of a field whose every write counts, and carries a byte: see `emergencyWritten`. */
  readonly emergencyWrite?: number;
  readonly thread: HandlerThread;
  /** Absent: nothing in particular. */
  readonly backend?: BackendFacts;
  /** Host addresses of pages that take the driver's notifications, one for each queue. Absent: eventfds do. */
  readonly notifyPages?: readonly number[] | undefined;
  /** Absent: vhost cannot serve it. */
  readonly vhost?: VhostSpec;
  /**
   * Why what serves the queues cannot follow an IOMMU, in a few words: `its backend has no device IOTLB`. Undefined
   * or absent: it can.
   */
  iommuProblem?(): string | undefined;
  /** Why it is behind an IOMMU only where that is requested, likewise. Undefined or absent: it is by default. */
  readonly iommuOnRequest?: string | undefined;
  /** Called once, before the guest runs. */
  attach?(host: DeviceHost): void;
  /** Makes the data half on the `main` thread: once, and again only after it threw. */
  createHandler?(): QueueHandler;
  /**
   * The driver wrote writable bytes of the configuration space, once or more since the last call:
   * `readConfig` returns their current values.
   */
  configWritten?(offset: number, length: number): void;
  /**
   * The driver wrote to the field at `emergencyWrite`.
   * @param bytes the low byte of each write; those that came too fast are lost
   */
  emergencyWritten?(bytes: Uint8Array): void;
  /** A message from the data half. */
  message?(message: unknown): void;
  /** Called once, after its creation, if there is an observer. Absent: its requests are data. */
  watch?(observer: RequestObserver): void;
  /** The driver reset the device; the queues are no longer served. */
  reset?(): void;
  /** Releases everything that the device holds. The queues are no longer served. */
  close(): void;
}

/** Events that a handler can wait for on a file descriptor. */
export const READABLE = 1;
export const WRITABLE = 4;

/** Lets a handler wait for file descriptors; an epoll loop in workers, the event loop on main. */
export interface Reactor {
  /**
   * Calls the handler's `ready(token, events)` whenever the descriptor is ready (level triggered).
   * Watching it again changes the events; 0 stops the watch.
   * @param token a small number chosen by the handler, 0 to 65535
   */
  watch(fd: number, events: number, token: number): void;
}

/** The context of a data half from `start` to `stop`. */
export interface HandlerContext {
  readonly memory: GuestMemory;
  /** All negotiated feature bits. */
  readonly features: bigint;
  /** The configuration space at the start, including the driver's writes. */
  readonly config?: Uint8Array;
  /** By queue index; undefined where the driver did not enable the queue. */
  readonly queues: readonly (ActiveQueue | undefined)[];
  readonly reactor: Reactor;
  /**
   * Whether this thread is needed elsewhere, to stop for example: long work is then left
   * unfinished, with `kickAgain`. Absent where that cannot happen meanwhile. HOT.
   */
  isInterrupted?(): boolean;
  /**
   * The driver broke a rule: the device stops and asks for a reset (DEVICE_NEEDS_RESET).
   * @param reason one line, with the clause
   */
  broken(reason: string): void;
  /** A line for the user; a driver that causes more than the limit gets them counted. */
  log(text: string): void;
  /**
   * Sends a cloneable message to the control half's `message`.
   * @param key one of a few: of several waiting messages with the same one, only the last arrives;
   *   default ''. A driver that provokes repeats is thereby limited to one of each.
   */
  post(message: unknown, key?: string): void;
}

/**
 * A device's data half. It is created once in the thread that serves it, and started and stopped there
 * as often as the driver wants, or the machine pauses or moves: state that survives a stop is a field
 * of it. Never throws because of the guest: it calls `broken`.
 */
export interface QueueHandler {
  /** The driver is ready (DRIVER_OK). Each queue is kicked once after it. */
  start(context: HandlerContext): void;
  /** The driver notified the queue; spurious calls are possible. HOT. */
  kick(queue: number): void;
  /** A watched descriptor is ready. HOT. Absent: it watches none. */
  ready?(token: number, events: number): void;
  /**
   * Queues are about to be handed over, here or elsewhere: take no more chains from any. Resolves when
   * those of these queues that cannot be given back are answered, after a second at most. `stop`
   * follows. Not called when the driver abandons all of them. A queue worker without an event loop does not wait for it.
   */
  drain?(queues: readonly number[]): Promise<void> | undefined;
  /**
   * Stop serving: on return no request is in flight, no popped chain is left (each was pushed or
   * given back by `undoPop`), and no queue will be touched again.
   */
  stop(): void;
  /**
   * The driver reset the device, or was replaced: discards what it had set. Not between `start`
   * and `stop`. Absent: nothing survives a stop anyway.
   */
  reset?(): void;
  /** A message from the control half's `DeviceHost.post`; only between `start` and `stop`. */
  message?(message: unknown): void;
}
