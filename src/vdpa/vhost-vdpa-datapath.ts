/**
 * Has a vDPA device of this host serve a device's queues: the ioeventfd notifies it, and it signals the irqfd. The
 * parent gets the driver's status at DRIVER_OK, when all that the driver set up is known, and at the reset.
 */
import { EOPNOTSUPP } from '../abi/errno.ts';
import {
  ACKNOWLEDGE,
  DEVICE_NEEDS_RESET,
  DRIVER,
  DRIVER_OK,
  FAILED,
  FEATURES_OK,
} from '../abi/virtio-pci.ts';
import { hasFeature, VIRTIO_F_RING_PACKED } from '../abi/virtio-ring.ts';
import {
  type Activation,
  type Datapath,
  type DatapathEvents,
  StepQueue,
} from '../datapath/datapath.ts';
import { HostError, InternalError, messageOf, PeerError } from '../host/errors.ts';
import { Eventfd, signalEventfd } from '../host/fd.ts';
import { LOOP_READABLE, LoopWatch } from '../host/main-loop.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import type { IovaSpace } from '../memory/iova-space.ts';
import { recoverRing } from '../vhost-user/frontend/ring-recovery.ts';
import { locateRings } from '../virtio/queue/create-virtqueue.ts';
import {
  type QueueConfig,
  type VringState,
  vringBase,
  vringState,
} from '../virtio/queue/virtqueue.ts';
import { VdpaIotlb } from './vdpa-iotlb.ts';
import type { VhostVdpa } from './vhost-vdpa.ts';

const NO_FD = -1;
/** No RAM is mapped behind it. */
const LAST_ADDRESS = 2 ** 52;

/** What a device provides to its datapath. */
export interface ParentUser {
  /** Feature bits that the parent cannot serve. */
  readonly withheld: bigint;
  /** What the parent is to accept of the negotiated features. */
  parentFeatures(negotiated: bigint): bigint;
  /**
   * Before DRIVER_OK: the parent gets what the driver wrote.
   * @param config as the driver sees it
   * @throws HostError
   */
  writeConfig(config: Uint8Array): Promise<void>;
  /** Shows the driver the parent's configuration. @throws HostError */
  showConfig(): Promise<void>;
}

/** From one activation to its end. */
interface VdpaRun {
  readonly features: bigint;
  readonly queues: readonly QueueConfig[];
  readonly memory: GuestMemory;
  /** Behind an IOMMU. */
  readonly iotlb: VdpaIotlb | undefined;
  /**
   * What the parent does between a stop and a start: it serves on, since it could not continue where it stopped; or it
   * waits to be resumed, with each queue at this position.
   */
  rest?: 'served' | ReadonlyMap<number, number> | undefined;
}

/** Whether a parent that was suspended with queues can resume them: all but their eventfds is as it was. */
function isSame(before: readonly QueueConfig[], now: readonly QueueConfig[]): boolean {
  const shape = ({ index, size, descriptorArea, driverArea, deviceArea }: QueueConfig): string =>
    [index, size, descriptorArea, driverArea, deviceArea].join();
  return before.map(shape).join(' ') === now.map(shape).join(' ');
}

/** Where a queue is. @param base as of `vringBase` */
function positionOf({ memory, features }: VdpaRun, queue: QueueConfig, base: number): VringState {
  const packed = hasFeature(features, VIRTIO_F_RING_PACKED);
  const { device } = locateRings(memory, queue, features);
  return vringState(base, packed, memory, device);
}

/** On the main thread: it only sets up and tears down. */
export class VhostVdpaDatapath implements Datapath {
  readonly withheld: bigint;
  readonly #parent: VhostVdpa;
  readonly #user: ParentUser;
  readonly #events: DatapathEvents;
  /** The parent signals it when its configuration or its status has changed. */
  readonly #changed = new Eventfd();
  readonly #watch: LoopWatch;
  readonly #steps = new StepQueue();
  #run: VdpaRun | undefined;
  #looking = false;

  /** @param parent owned from here on */
  constructor(parent: VhostVdpa, user: ParentUser, events: DatapathEvents) {
    this.#parent = parent;
    this.#user = user;
    this.#events = events;
    this.withheld = user.withheld;
    this.#watch = new LoopWatch(this.#changed.fd, LOOP_READABLE, () => {
      // One look waits at a time, however often the parent reports changes.
      if (!this.#changed.drain() || this.#looking) return;
      this.#looking = true;
      void this.#steps.run(() => this.#look());
    });
  }

  start(activation: Activation, space?: IovaSpace): Promise<void> {
    return this.#steps.run(async () => {
      const { features, config } = activation;
      const before = this.#run;
      if (before !== undefined && (await this.#continue(before, activation.queues))) return;
      const states = before === undefined ? new Map() : await this.#endRest(before);
      const queues = activation.queues.map((queue) => {
        const state = states.get(queue.index);
        return state === undefined ? queue : { ...queue, state };
      });
      const memory = new GuestMemory(activation.memory);
      const iotlb =
        space && new VdpaIotlb(this.#parent, space, (reason) => this.#events.broken(reason));
      const run = { features, queues, memory, iotlb };
      this.#run = run;
      try {
        await this.#serve(run, config);
      } catch (error) {
        await this.#end(run);
        throw error;
      }
    });
  }

  /** Where the queues are is read from the parent only if they continue: it may take a message to a process. */
  stop(continuing: readonly number[] = []): Promise<ReadonlyMap<number, VringState>> {
    return this.#steps.run(async () => {
      const run = this.#run;
      if (run === undefined) return new Map();
      let bases: ReadonlyMap<number, number> | undefined = new Map();
      try {
        if (continuing.length > 0) bases = await this.#halt(run);
      } catch (error) {
        await this.#end(run);
        throw error;
      }
      if (bases === undefined) {
        run.rest = 'served';
        this.#events.log(`${this.#parent.path} cannot be paused: it serves on`);
        return new Map();
      }
      if (!this.#parent.canResume || continuing.length < run.queues.length) {
        return await this.#end(run, bases);
      }
      run.rest = bases;
      return new Map(
        run.queues.map((queue) => [
          queue.index,
          positionOf(run, queue, bases.get(queue.index) ?? 0),
        ]),
      );
    });
  }

  /** The queues interrupt elsewhere from now on. */
  reroute(queues: readonly QueueConfig[]): Promise<void> {
    return this.#steps.run(() => this.#setCalls(queues));
  }

  /** Ends what a stop could not. */
  reset(): Promise<void> {
    return this.#steps.run(async () => {
      if (this.#run !== undefined) await this.#end(this.#run);
    });
  }

  /** There is no data half. */
  post(): void {}

  async close(): Promise<void> {
    try {
      await this.reset();
    } finally {
      this.#watch.close();
      await this.#parent.close();
      this.#changed.close();
    }
  }

  /** @returns false when the queues must be set up again */
  async #continue(run: VdpaRun, queues: readonly QueueConfig[]): Promise<boolean> {
    const { rest } = run;
    if (rest === undefined) throw new InternalError('a datapath was started twice');
    if (rest !== 'served' && !isSame(run.queues, queues)) return false;
    run.rest = undefined;
    try {
      await this.#setCalls(queues);
      if (rest === 'served') return true;
      await this.#parent.resume();
      await this.#user.showConfig();
    } catch (error) {
      await this.#end(run);
      throw error;
    }
    // Kicks while it was suspended may be lost.
    for (const { kickFd } of queues) signalEventfd(kickFd);
    return true;
  }

  /** Ends what was suspended. @returns the state of each queue */
  #endRest(run: VdpaRun): Promise<ReadonlyMap<number, VringState>> {
    return this.#end(run, typeof run.rest === 'object' ? run.rest : new Map());
  }

  async #serve({ features, queues, memory, iotlb }: VdpaRun, config?: Uint8Array): Promise<void> {
    const parent = this.#parent;
    const packed = hasFeature(features, VIRTIO_F_RING_PACKED);
    // virtio 1.3 §3.1.1.
    await parent.setStatus(0);
    await parent.setStatus(ACKNOWLEDGE);
    await parent.setStatus(ACKNOWLEDGE | DRIVER);
    await parent.setFeatures(this.#user.parentFeatures(features));
    await this.#raise(ACKNOWLEDGE | DRIVER | FEATURES_OK, 'the negotiated features');
    if (config !== undefined) await this.#user.writeConfig(config);
    if (iotlb === undefined) await parent.map(parent.wholeRam(memory));
    else await iotlb.open();
    for (const queue of queues) {
      // The kernel takes any address.
      locateRings(memory, queue, features);
      await parent.setUpRing(queue, vringBase(queue.state, packed));
    }
    await parent.setConfigCall(this.#changed.fd);
    await this.#raise(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK, 'its queues');
    // It may have changed while no driver was there to be notified.
    await this.#user.showConfig();
    // The driver may have kicked before.
    for (const { kickFd } of queues) signalEventfd(kickFd);
  }

  /** A parent refuses by not setting the bits. */
  async #raise(status: number, what: string): Promise<void> {
    await this.#parent.setStatus(status);
    const now = await this.#parent.status();
    if ((now & status) === status && (now & (FAILED | DEVICE_NEEDS_RESET)) === 0) return;
    throw new PeerError('E_VDPA', `${this.#parent.path} does not accept ${what}`);
  }

  /**
   * The parent takes nothing more from the queues.
   * @returns the position of each, as `vringBase`; undefined when the parent cannot stop so that it can continue
   */
  async #halt({ queues }: VdpaRun): Promise<ReadonlyMap<number, number> | undefined> {
    const parent = this.#parent;
    if (parent.canSuspend) await parent.suspend();
    const bases = new Map<number, number>();
    for (const { index } of queues) {
      try {
        // A parent in userspace stops before it answers.
        bases.set(index, await parent.base(index));
      } catch (error) {
        const cannot = error instanceof HostError && error.errno === EOPNOTSUPP;
        if (cannot && !parent.canSuspend && bases.size === 0) return undefined;
        throw error;
      }
    }
    return bases;
  }

  /**
   * Leaves the parent reset, without access to guest RAM.
   * @param bases of the queues that continue
   * @returns the state of each of those
   * @throws PeerError when what a queue had in flight cannot be repeated; HostError
   */
  async #end(
    run: VdpaRun,
    bases: ReadonlyMap<number, number> = new Map(),
  ): Promise<ReadonlyMap<number, VringState>> {
    const parent = this.#parent;
    this.#run = undefined;
    const states = new Map<number, VringState>();
    try {
      await parent.setStatus(0);
      for (const queue of run.queues) {
        const base = bases.get(queue.index);
        if (base !== undefined) states.set(queue.index, this.#stateOf(run, queue, base));
      }
      await parent.setConfigCall(NO_FD);
      for (const { index } of run.queues) {
        await parent.setKick(index, NO_FD);
        await parent.setCall(index, NO_FD);
      }
    } finally {
      run.memory.detach();
      await run.iotlb?.close();
      await parent.unmap(0, LAST_ADDRESS);
    }
    return states;
  }

  /** The parent is reset: what it took from the ring and did not answer is made available again. */
  #stateOf(run: VdpaRun, queue: QueueConfig, base: number): VringState {
    const state = positionOf(run, queue, base);
    if (state.nextAvail === state.nextUsed) return state;
    try {
      return recoverRing(run.memory, queue, run.features, false);
    } catch (error) {
      if (!(error instanceof PeerError)) throw error;
      throw new PeerError(
        'E_VDPA',
        `${this.#parent.path} dropped requests of queue ${queue.index} that cannot be repeated`,
        'reset the device',
      );
    }
  }

  async #setCalls(queues: readonly QueueConfig[]): Promise<void> {
    for (const { index, callFd } of queues) await this.#parent.setCall(index, callFd);
  }

  async #look(): Promise<void> {
    this.#looking = false;
    if (this.#run === undefined) return;
    try {
      if (((await this.#parent.status()) & DEVICE_NEEDS_RESET) !== 0) {
        this.#events.broken(`${this.#parent.path} asks for a reset`);
      }
      await this.#user.showConfig();
    } catch (error) {
      this.#events.broken(messageOf(error));
    }
  }
}
