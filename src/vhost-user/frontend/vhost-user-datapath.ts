/**
 * Has another process serve a device's queues: the ioeventfd wakes the backend, which signals the
 * irqfd. A backend that crashed and reconnects is set up again, and resumes what was in flight.
 */
import {
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
} from '../../abi/vhost-user.ts';
import { ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK } from '../../abi/virtio-pci.ts';
import { featureSet, hasFeature } from '../../abi/virtio-ring.ts';
import {
  type Activation,
  type Datapath,
  type DatapathEvents,
  StepQueue,
} from '../../datapath/datapath.ts';
import { InternalError, messageOf, type PeerError, UsageError } from '../../host/errors.ts';
import { Eventfd, signalEventfd } from '../../host/fd.ts';
import { LOOP_READABLE, LoopWatch } from '../../host/main-loop.ts';
import { type DeniedAccess, GuestMemory } from '../../memory/guest-memory.ts';
import type { IovaSpace } from '../../memory/iova-space.ts';
import type { IotlbMessage } from '../../vhost/iotlb-message.ts';
import { ringAreas } from '../../virtio/queue/create-virtqueue.ts';
import type { QueueConfig, VringState } from '../../virtio/queue/virtqueue.ts';
import type { BackendConnector } from './backend-connector.ts';
import { FrontendIotlb } from './frontend-iotlb.ts';
import { BackendGone, type FrontendSession, type InflightFile } from './frontend-session.ts';
import { recoverRing } from './ring-recovery.ts';

const PROTOCOL_FEATURES_BIT = featureSet(VHOST_USER_F_PROTOCOL_FEATURES);

/** What a device provides to its datapath. */
export interface FrontendDevice {
  /** Feature bits that the backend cannot serve. */
  readonly withheld: bigint;
  /** Feature bits that concern the backend; the others are between the driver and us. */
  readonly backendFeatures: bigint;
  /** The queues that the backend may serve, and the largest size of one. */
  readonly queueCount: number;
  readonly queueSize: number;
  /** Serves the queues that the backend does not, if there are any. */
  readonly fallback?: Datapath;
  /** False for a queue that must not be used yet. */
  isEnabled(queue: number): boolean;
  /** A new session, which may differ from the one before. @throws PeerError */
  refresh(session: FrontendSession): Promise<void>;
}

/** From one activation to its end. */
interface VhostUserRun {
  readonly activation: Activation;
  readonly memory: GuestMemory;
  readonly queues: readonly QueueConfig[];
  /** Behind an IOMMU: the device's addresses, and what the session's backend knows of them. */
  readonly space: IovaSpace | undefined;
  iotlb?: FrontendIotlb | undefined;
  /** The one that serves the rings now. */
  session: FrontendSession | undefined;
}

/** On the main thread: it only sets up, tears down, and reconnects. */
export class VhostUserDatapath implements Datapath {
  readonly withheld: bigint;
  readonly #connector: BackendConnector;
  readonly #device: FrontendDevice;
  readonly #events: DatapathEvents;
  /** The backend signals it when it cannot continue. */
  readonly #error = new Eventfd();
  readonly #watch: LoopWatch;
  #run: VhostUserRun | undefined;
  /** The session that has guest memory. */
  #sharing: FrontendSession | undefined;
  /** Queues whose backend was gone before they were stopped. */
  readonly #lost = new Set<number>();
  #inflight: InflightFile | undefined;
  /** What `start` threw, which `disconnected` need not report. */
  #thrown: unknown;
  readonly #steps = new StepQueue();

  /** @param connector stays its owner's */
  constructor(connector: BackendConnector, device: FrontendDevice, events: DatapathEvents) {
    this.#connector = connector;
    this.#device = device;
    this.#events = events;
    this.withheld = device.withheld;
    this.#watch = new LoopWatch(this.#error.fd, LOOP_READABLE, () => {
      if (this.#error.drain() && this.#run !== undefined) {
        this.#events.broken('the backend found an invalid ring or buffer');
      }
    });
  }

  start(activation: Activation, space?: IovaSpace): Promise<void> {
    return this.#steps.run(async () => {
      if (this.#run !== undefined) throw new InternalError('a datapath was started twice');
      const { queueCount, fallback } = this.#device;
      const others = activation.queues.filter(({ index }) => index >= queueCount);
      await fallback?.start({ ...activation, queues: others }, space);
      const queues = activation.queues.filter(({ index }) => index < queueCount);
      if (queues.every(({ state }) => state === undefined)) this.#forget();
      const memory = new GuestMemory(activation.memory);
      this.#error.drain();
      this.#run = { activation, memory, queues, space, session: undefined };
      // A backend that is gone gets the queues when it is back.
      if (this.#connector.reconnecting) return;
      try {
        await this.#serve(this.#run, await this.#session());
      } catch (error) {
        if (error instanceof BackendGone && this.#connector.reconnecting) return;
        this.#thrown = error;
        await this.#end();
        throw error;
      }
    });
  }

  stop(): Promise<ReadonlyMap<number, VringState>> {
    return this.#steps.run(() => this.#end());
  }

  post(message: unknown, key?: string): void {
    this.#device.fallback?.post(message, key);
  }

  async close(): Promise<void> {
    try {
      await this.stop();
      await this.#device.fallback?.close();
    } finally {
      this.#forget();
      this.#watch.close();
      this.#error.close();
    }
  }

  /** The session ended. */
  disconnected(error: PeerError): void {
    this.#sharing = undefined;
    void this.#steps.run(async () => {
      const run = this.#run;
      if (error === this.#thrown) return;
      if (run?.session !== undefined) this.#loseRings(run);
      if (error instanceof BackendGone) {
        this.#events.log(`${error.message}; waiting for it at ${this.#connector.address.socket}`);
      } else if (run === undefined) this.#events.log(error.message);
      else this.#events.broken(error.message);
    });
  }

  /** There is a session again. */
  reconnected(session: FrontendSession): void {
    void this.#steps.run(async () => {
      const run = this.#run;
      try {
        await this.#device.refresh(session);
        if (run === undefined || run.session === session) return;
        await this.#serve(run, session);
        // It may have crashed between using buffers and signaling it.
        for (const { callFd } of run.queues) if (callFd >= 0) signalEventfd(callFd);
        this.#events.log('the backend reconnected');
      } catch (error) {
        // `disconnected` handles a backend that is gone again.
        if (!(error instanceof BackendGone)) this.#events.broken(messageOf(error));
      }
    });
  }

  /** The backend asks for an address, or met one that it may not use. @returns whether it has it */
  async askedIotlb(message: IotlbMessage): Promise<boolean> {
    return (await this.#run?.iotlb?.asked(message)) ?? false;
  }

  /** Enables or disables a queue from now on. */
  enable(queue: number, enabled: boolean): void {
    void this.#steps.run(async () => {
      // A failure ends the session, which `disconnected` handles.
      await this.#run?.session?.enableRing(queue, enabled).catch(() => {});
    });
  }

  async #session(): Promise<FrontendSession> {
    const { session } = this.#connector;
    if (session !== undefined) return session;
    const made = await this.#connector.connect();
    await this.#device.refresh(made);
    return made;
  }

  async #serve(run: VhostUserRun, session: FrontendSession): Promise<void> {
    const { memory, queues } = run;
    const features = this.#featuresFor(run, session);
    const hasInflight = session.has(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
    const recorded = hasInflight && this.#inflight !== undefined;
    const configs = queues.map((config) => this.#recovered(run, config, recorded));
    await session.setFeatures(features);
    await session.setStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if (this.#sharing !== session) await session.shareMemory(run.space?.ram ?? memory);
    this.#sharing = session;
    if (hasInflight) {
      const { queueCount, queueSize } = this.#device;
      this.#inflight ??= await session.getInflight(queueCount, queueSize);
      await session.setInflight(this.#inflight);
    }
    // From here on, its end loses rings.
    run.session = session;
    const iotlb =
      run.space && new FrontendIotlb(session, run.space, (access) => this.#denied(access));
    run.iotlb = iotlb;
    for (const config of configs) {
      await iotlb?.prefault(ringAreas(config, features));
      await session.setUpRing(memory, config, features, this.#error.fd);
    }
    for (const { index } of configs) {
      await session.enableRing(index, this.#device.isEnabled(index));
    }
    await session.setStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    await session.sync();
    this.#lost.clear();
    // A ring starts when it is kicked, which the driver may already have done.
    for (const { kickFd } of configs) signalEventfd(kickFd);
  }

  /** Features for the backend. @throws UsageError when it came back without one of them */
  #featuresFor({ activation }: VhostUserRun, session: FrontendSession): bigint {
    const needed = activation.features & this.#device.backendFeatures;
    const missing = needed & ~session.features;
    if (missing === 0n) return needed | (session.features & PROTOCOL_FEATURES_BIT);
    const bits = Array.from({ length: 64 }, (_, bit) => bit).filter((b) => hasFeature(missing, b));
    throw new UsageError(
      'E_FEATURES',
      `the backend came back without feature bits that the driver uses (${bits.join(', ')})`,
      'reset the device',
    );
  }

  /** A queue with the state in which it resumes. */
  #recovered(
    { memory, activation }: VhostUserRun,
    config: QueueConfig,
    recorded: boolean,
  ): QueueConfig {
    if (!this.#lost.has(config.index)) return config;
    const state = recoverRing(memory, config, activation.features, recorded);
    return { ...config, state };
  }

  async #end(): Promise<ReadonlyMap<number, VringState>> {
    const run = this.#run;
    if (run === undefined) return new Map();
    this.#run = undefined;
    const states = new Map<number, VringState>();
    try {
      await this.#stopRings(run, states);
    } finally {
      run.memory.detach();
      await run.iotlb?.close();
      for (const [index, state] of (await this.#device.fallback?.stop()) ?? []) {
        states.set(index, state);
      }
    }
    return states;
  }

  async #stopRings(run: VhostUserRun, states: Map<number, VringState>): Promise<void> {
    const { activation, memory, queues, session } = run;
    for (const config of queues) {
      const { index, state } = config;
      try {
        if (session !== undefined && this.#connector.session === session) {
          states.set(index, await session.stopRing(memory, config, activation.features));
          continue;
        }
      } catch {
        // The session is over, which `disconnected` handles.
      }
      if (session !== undefined) this.#lost.add(index);
      if (session !== undefined || this.#lost.has(index))
        states.set(index, { nextAvail: 0, nextUsed: 0 });
      else if (state !== undefined) states.set(index, state);
    }
  }

  #denied(access: DeniedAccess): void {
    this.#events.broken('the backend met an address that the IOMMU does not permit', access);
  }

  #loseRings(run: VhostUserRun): void {
    run.session = undefined;
    void run.iotlb?.close();
    run.iotlb = undefined;
    for (const { index } of run.queues) this.#lost.add(index);
  }

  /** Nothing is in flight any more: the driver has reset the device, or is gone. */
  #forget(): void {
    this.#lost.clear();
    this.#inflight?.file.close();
    this.#inflight = undefined;
  }
}
