/**
 * Where a device's queues are served: in this thread, in a queue worker, in the host kernel, in
 * another process. The owner of a device starts a datapath at DRIVER_OK and stops it at reset;
 * the states that `stop` returns let another datapath continue where this one left off.
 */
import { InternalError } from '../host/errors.ts';
import type { DeniedAccess, GuestMemoryShare } from '../memory/guest-memory.ts';
import type { IovaSpace } from '../memory/iova-space.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import type { PollMode } from '../virtio/device-type.ts';
import type { Breach, Observation } from '../virtio/observe/observation.ts';
import type { QueueConfig, VringState } from '../virtio/queue/virtqueue.ts';
import { InProcessDatapath } from './in-process.ts';
import { QueueWorkerDatapath } from './queue-worker.ts';

/** All that a datapath needs to serve a device's queues; a plain, cloneable message. */
export interface Activation {
  readonly memory: GuestMemoryShare;
  /** All negotiated feature bits. */
  readonly features: bigint;
  /** The configuration space as it is now. */
  readonly config?: Uint8Array;
  /** The enabled queues. */
  readonly queues: readonly QueueConfig[];
  /** How a thread of this process waits. Default `off`. */
  readonly poll?: PollMode;
  /** The observer of the queues; absent: none. */
  readonly observe?: Observation;
  /** Held queues, by index: how many chains may still be taken from each. */
  readonly holds?: ReadonlyMap<number, number>;
}

/** What a datapath reports to its owner. */
export interface DatapathEvents {
  /**
   * The driver broke a rule; no queue is served until `stop` and `start`.
   * @param denied what the IOMMU in front of the device did not permit, if that was it
   */
  broken(reason: string, denied?: DeniedAccess): void;
  /** A line for the user. */
  log(text: string): void;
  /** A message from the data half for the control half. @param key see `HandlerContext.post` */
  message(message: unknown, key: string): void;
  /** The driver or the device broke a rule of virtio; the queues are still served. */
  breach?(breach: Breach): void;
}

/** Serves queues from `start` to `stop`; may be started again, with the same data half. */
export interface Datapath {
  /** Feature bits that cannot be served here, and must not be offered. */
  readonly withheld: bigint;
  /** It takes the driver's chains itself, so that queues can be held. Absent: that depends on its kind. */
  readonly hasRings?: boolean;
  /** The thread that serves them, by the kernel's id of it; 0 while it does not run. Absent: not one of its own. */
  readonly threadId?: number;
  /** Resolves when its thread is up, so that `start` is short. Absent: there is none to wait for. */
  ready?(): Promise<void>;
  /**
   * Resolves when the queues are being served.
   * @param space the addresses of a device behind an IOMMU, which `activation` has as memory; for those who do not
   *   serve it in this process
   * @throws HostError when they cannot be
   */
  start(activation: Activation, space?: IovaSpace): Promise<void>;
  /**
   * Resolves when no request is in flight and no queue will be touched again.
   * @param continuing queues that will resume where they stopped; the driver abandons the others.
   *   Default none
   * @returns the state of each started queue, by index
   */
  stop(continuing?: readonly number[]): Promise<ReadonlyMap<number, VringState>>;
  /**
   * The driver reset the device, or the machine was power-cycled: discards what the data half keeps
   * for the driver. Not between `start` and `stop`. Absent: nothing outlives `stop`.
   */
  reset?(): Promise<void>;
  /**
   * The queues, which are being served, interrupt elsewhere: they differ in `callFd`. Absent: a stop and a start do
   * the same.
   */
  reroute?(queues: readonly QueueConfig[]): Promise<void>;
  /** The current state of each queue, as far as this datapath knows it without stopping. */
  states?(): Promise<ReadonlyMap<number, VringState>>;
  /** Passes a message to the data half, if it is started and has one. @param key see `DeviceHost.post` */
  post(message: unknown, key?: string): void;
  /** Stops if needed and releases everything, the thread included. */
  close(): Promise<void>;
}

/** The datapath in this process that a device asks for: on the main thread or in a queue worker. */
export function createDatapath(device: VirtioDevice, events: DatapathEvents): Datapath {
  const { thread } = device;
  if (thread.kind === 'worker') {
    return new QueueWorkerDatapath({ name: device.name, ...thread }, events);
  }
  return new InProcessDatapath(() => {
    const handler = device.createHandler?.();
    if (handler === undefined) throw new InternalError(`${device.name} has no data half`);
    return handler;
  }, events);
}

/** Asynchronous work that must not overlap: strictly one step after the other. */
export class StepQueue {
  #last: Promise<unknown> = Promise.resolve();

  /** Runs a step once those before it have ended, however they did. */
  run<T>(step: () => Promise<T>): Promise<T> {
    const done = this.#last.then(step);
    this.#last = done.catch(() => {});
    return done;
  }

  /** Resolves when all steps so far have ended. */
  async ended(): Promise<void> {
    await this.#last;
  }
}
