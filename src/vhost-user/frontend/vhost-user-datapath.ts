/**
 * Gives a device's queues to another process: a kick goes from the ioeventfd straight to the
 * backend, its call straight into the irqfd. When the backend dies and comes back, it is told all
 * anew and goes on with what was in flight.
 */

import {
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_GET_STATUS,
  VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
  VHOST_USER_PROTOCOL_F_STATUS,
  VHOST_USER_SET_FEATURES,
  VHOST_USER_SET_STATUS,
} from '../../abi/vhost-user.ts';
import { ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK } from '../../abi/virtio-pci.ts';
import type { Activation, Datapath, DatapathEvents } from '../../datapath/datapath.ts';
import { StepQueue } from '../../datapath/step-queue.ts';
import { InternalError, messageOf, type PeerError, UsageError } from '../../host/errors.ts';
import { Eventfd, signalEventfd } from '../../host/fd.ts';
import { LOOP_READABLE, LoopWatch } from '../../host/main-loop.ts';
import { GuestMemory } from '../../memory/guest-memory.ts';
import { featureSet, hasFeature } from '../../virtio/features.ts';
import type { QueueConfig, VringState } from '../../virtio/queue/virtqueue.ts';
import { protocolError } from '../message.ts';
import { writeU64 } from '../payload.ts';
import { BackendGone, type Connection } from './connection.ts';
import { InflightRecord } from './inflight-record.ts';
import type { BackendLink, Session } from './link.ts';
import { recoverRing } from './lost-ring.ts';
import { enableRing, setUpRing, shareMemory, takeRingBack } from './rings.ts';

const PROTOCOL_FEATURES_BIT = featureSet(VHOST_USER_F_PROTOCOL_FEATURES);

/** What the device tells its datapath of itself. */
export interface ServedDevice {
  /** Feature bits that the backend cannot serve. */
  readonly withheld: bigint;
  /** Feature bits that are the backend's affair; the others are between the driver and us. */
  readonly backendFeatures: bigint;
  /** All queues that the backend may be given, and the largest size of one. */
  readonly queueCount: number;
  readonly queueSize: number;
  /** Serves the queues that the backend does not; absent: there are none. */
  readonly rest?: Datapath;
  /** False for a queue that is not to be used yet. */
  isEnabled(queue: number): boolean;
  /** The backend is there again: what it says of itself may be different. @throws PeerError */
  refresh(session: Session): Promise<void>;
}

/** From one activation to its end. */
interface Run {
  readonly activation: Activation;
  readonly memory: GuestMemory;
  readonly queues: readonly QueueConfig[];
  /** The session that serves the rings now. */
  session: Session | undefined;
}

/** On the main thread: it only sets up, tears down, and reconnects. */
export class VhostUserDatapath implements Datapath {
  readonly withheld: bigint;
  readonly #link: BackendLink;
  readonly #device: ServedDevice;
  readonly #events: DatapathEvents;
  /** The backend signals it when it cannot go on. */
  readonly #error = new Eventfd();
  readonly #watch: LoopWatch;
  #run: Run | undefined;
  /** The session that has guest memory. */
  #informed: Session | undefined;
  /** Queues whose backend went away without saying where they stand. */
  readonly #lost = new Set<number>();
  #inflight: InflightRecord | undefined;
  /** What `start` failed with; it needs no second telling. */
  #thrown: unknown;
  readonly #steps = new StepQueue();

  /** @param link stays its owner's */
  constructor(link: BackendLink, device: ServedDevice, events: DatapathEvents) {
    this.#link = link;
    this.#device = device;
    this.#events = events;
    this.withheld = device.withheld;
    this.#watch = new LoopWatch(this.#error.fd, LOOP_READABLE, () => {
      if (this.#error.drain() && this.#run !== undefined) {
        this.#events.broken('the backend found a ring or a buffer that breaks the rules');
      }
    });
  }

  start(activation: Activation): Promise<void> {
    return this.#steps.run(async () => {
      if (this.#run !== undefined) throw new InternalError('a datapath was started twice');
      const { queueCount, rest } = this.#device;
      await rest?.start({
        ...activation,
        queues: activation.queues.filter(({ index }) => index >= queueCount),
      });
      const queues = activation.queues.filter(({ index }) => index < queueCount);
      if (queues.every(({ state }) => state === undefined)) this.#forget();
      const memory = new GuestMemory(activation.memory);
      this.#error.drain();
      this.#run = { activation, memory, queues, session: undefined };
      // One that is gone is served as it comes back.
      if (this.#link.seeking) return;
      try {
        await this.#serve(this.#run, await this.#session());
      } catch (error) {
        if (error instanceof BackendGone && this.#link.seeking) return;
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
    this.#device.rest?.post(message, key);
  }

  async close(): Promise<void> {
    try {
      await this.stop();
      await this.#device.rest?.close();
    } finally {
      this.#forget();
      this.#watch.close();
      this.#error.close();
    }
  }

  /** The connection ended. */
  down(error: PeerError): void {
    this.#informed = undefined;
    void this.#steps.run(async () => {
      const run = this.#run;
      if (error === this.#thrown) return;
      if (run?.session !== undefined) this.#loseRings(run);
      if (error instanceof BackendGone) {
        this.#events.log(`${error.message}; it is waited for at ${this.#link.address.socket}`);
      } else if (run === undefined) this.#events.log(error.message);
      else this.#events.broken(error.message);
    });
  }

  /** There is a connection again. */
  up(session: Session): void {
    void this.#steps.run(async () => {
      const run = this.#run;
      try {
        await this.#device.refresh(session);
        if (run === undefined || run.session === session) return;
        await this.#serve(run, session);
        // What it used before it died, it may not have told.
        for (const { callFd } of run.queues) if (callFd >= 0) signalEventfd(callFd);
        this.#events.log('the backend is back');
      } catch (error) {
        // Of one that is gone again `down` is told.
        if (!(error instanceof BackendGone)) this.#events.broken(messageOf(error));
      }
    });
  }

  /** Has a queue served, or not, from now on. */
  enable(queue: number, enabled: boolean): void {
    void this.#steps.run(async () => {
      const connection = this.#run?.session?.connection;
      if (connection === undefined) return;
      // Its failure is its session's end, which `down` hears of.
      await enableRing(connection, queue, enabled).catch(() => {});
    });
  }

  async #session(): Promise<Session> {
    const { session } = this.#link;
    if (session !== undefined) return session;
    const made = await this.#link.connect();
    await this.#device.refresh(made);
    return made;
  }

  async #serve(run: Run, session: Session): Promise<void> {
    const { connection, offer } = session;
    const { memory, queues } = run;
    const features = this.#featuresFor(run, session);
    // Before a ring is: one that ends within is to be recovered as well.
    const recorded =
      this.#inflight !== undefined && connection.has(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
    const configs = queues.map((config) => this.#placed(run, config, recorded));
    await connection.order(VHOST_USER_SET_FEATURES, writeU64(features));
    await setStatus(connection, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if (this.#informed !== session) await shareMemory(connection, memory);
    this.#informed = session;
    await this.#shareRecord(connection);
    run.session = session;
    for (const config of configs) {
      await setUpRing(connection, memory, config, features, this.#error.fd);
    }
    if (hasFeature(offer.features, VHOST_USER_F_PROTOCOL_FEATURES)) {
      for (const { index } of configs) {
        await enableRing(connection, index, this.#device.isEnabled(index));
      }
    }
    await setStatus(connection, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    await connection.settle();
    this.#lost.clear();
    // A ring starts when it is kicked, which the driver may have done before.
    for (const { kickFd } of configs) signalEventfd(kickFd);
  }

  /** Features for the backend. @throws UsageError when the one that came back lacks some */
  #featuresFor({ activation }: Run, { offer }: Session): bigint {
    const needed = activation.features & this.#device.backendFeatures;
    const missing = needed & ~offer.features;
    if (missing === 0n) return needed | (offer.features & PROTOCOL_FEATURES_BIT);
    const bits = Array.from({ length: 64 }, (_, bit) => bit).filter((b) => hasFeature(missing, b));
    throw new UsageError(
      'E_FEATURES',
      `the backend came back without what the driver uses (feature bits ${bits.join(', ')}); reset the device`,
    );
  }

  /** Where a queue is to go on. */
  #placed({ memory, activation }: Run, config: QueueConfig, recorded: boolean): QueueConfig {
    if (!this.#lost.has(config.index)) return config;
    const state = recoverRing(memory, config, activation.features, recorded);
    return { ...config, state };
  }

  async #shareRecord(connection: Connection): Promise<void> {
    if (!connection.has(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD)) return;
    const { queueCount, queueSize } = this.#device;
    this.#inflight ??= await InflightRecord.get(connection, queueCount, queueSize);
    await this.#inflight.hand(connection);
  }

  async #end(): Promise<ReadonlyMap<number, VringState>> {
    const run = this.#run;
    if (run === undefined) return new Map();
    this.#run = undefined;
    const states = new Map<number, VringState>();
    try {
      await this.#takeBack(run, states);
    } finally {
      run.memory.detach();
      for (const [index, state] of (await this.#device.rest?.stop()) ?? []) {
        states.set(index, state);
      }
    }
    return states;
  }

  async #takeBack(run: Run, states: Map<number, VringState>): Promise<void> {
    const { activation, memory, queues, session } = run;
    for (const config of queues) {
      const { index, state } = config;
      try {
        if (session !== undefined && this.#link.session === session) {
          const { connection } = session;
          states.set(index, await takeRingBack(connection, memory, config, activation.features));
          continue;
        }
      } catch {
        // The session is over, as `down` is told.
      }
      if (session !== undefined) this.#lost.add(index);
      if (session !== undefined || this.#lost.has(index))
        states.set(index, { nextAvail: 0, nextUsed: 0 });
      else if (state !== undefined) states.set(index, state);
    }
  }

  #loseRings(run: Run): void {
    run.session = undefined;
    for (const { index } of run.queues) this.#lost.add(index);
  }

  /** What was in flight is no more: the driver has reset the device, or there is none. */
  #forget(): void {
    this.#lost.clear();
    this.#inflight?.[Symbol.dispose]();
    this.#inflight = undefined;
  }
}

/** VHOST_USER_PROTOCOL_F_STATUS: says how far the driver is. @throws PeerError */
async function setStatus(connection: Connection, status: number): Promise<void> {
  if (!connection.has(VHOST_USER_PROTOCOL_F_STATUS)) return;
  await connection.order(VHOST_USER_SET_STATUS, writeU64(status));
  const shown = Number(await connection.askU64(VHOST_USER_GET_STATUS));
  if ((shown & FEATURES_OK) !== 0) return;
  throw connection.fail(protocolError('it took features that it does not agree to'));
}
