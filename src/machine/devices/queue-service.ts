/**
 * How a device's queues are served from DRIVER_OK to the reset: by which of its datapaths, from
 * which state, and which of them are held.
 */
import {
  featureSet,
  hasFeature,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_RING_PACKED,
} from '../../abi/virtio-ring.ts';
import {
  type Activation,
  createDatapath,
  type Datapath,
  type DatapathEvents,
} from '../../datapath/datapath.ts';
import { ShadowDatapath } from '../../datapath/shadow/shadow-datapath.ts';
import { InternalError, type Reason, UsageError } from '../../host/errors.ts';
import type { IovaSpace } from '../../memory/iova-space.ts';
import { VhostVdpaDevice } from '../../vdpa/vhost-vdpa-device.ts';
import { openVhostBackends } from '../../vhost/vhost-backend.ts';
import { VhostDatapath } from '../../vhost/vhost-datapath.ts';
import { VhostUserDevice } from '../../vhost-user/frontend/vhost-user-device.ts';
import type { VirtioDevice } from '../../virtio/device.ts';
import type { VringState } from '../../virtio/queue/virtqueue.ts';

/**
 * `userspace`: the device's own data half, in this process. `vhost`: the host kernel. `vhost-user`:
 * another process, for devices that live there only. `vdpa`: a vDPA device of the host, likewise. `vhost-shadow`: the host
 * kernel, on copies that a thread of this process makes, so that the queues can be traced, checked, and held.
 */
export type DatapathName = 'userspace' | 'vhost' | 'vhost-shadow' | 'vhost-user' | 'vdpa';

/**
 * The datapaths that can serve a device, its own first.
 * @param fallback the device's own, for what another one does not serve
 */
export type DatapathTable = ReadonlyMap<
  DatapathName,
  (events: DatapathEvents, fallback: () => Datapath) => Datapath
>;

/** The datapaths that a device supports. */
export function datapathsOf(device: VirtioDevice): DatapathTable {
  if (device instanceof VhostUserDevice) {
    return new Map([['vhost-user', (events) => device.createDatapath(events)]]);
  }
  if (device instanceof VhostVdpaDevice) {
    return new Map([['vdpa', (events) => device.createDatapath(events)]]);
  }
  const table = new Map<DatapathName, (events: DatapathEvents, own: () => Datapath) => Datapath>([
    ['userspace', (events) => createDatapath(device, events)],
  ]);
  const { vhost } = device;
  if (vhost !== undefined) {
    const open = (events: DatapathEvents, fallback: () => Datapath): Datapath =>
      new VhostDatapath(openVhostBackends(vhost), fallback(), events);
    table.set('vhost', open);
    const { name, queues } = device;
    table.set(
      'vhost-shadow',
      (events, fallback) =>
        new ShadowDatapath(name, queues, (inner) => open(inner, fallback), events),
    );
  }
  return table;
}

const ACCESS_PLATFORM = featureSet(VIRTIO_F_ACCESS_PLATFORM);

/** Why a device's queues cannot be held where they are served; absent: they can. */
const NO_HOLDS: Readonly<Partial<Record<DatapathName, (device: string) => Reason>>> = {
  vhost: (device) => [
    'the host kernel cannot hold queues',
    `release them, and move the device to userspace or vhost-shadow (nodevmm vm move ${device} userspace)`,
  ],
  'vhost-user': () => ['queues that another process serves cannot be held'],
  vdpa: () => ['queues that a vDPA device serves cannot be held'],
};

/** Whose the rest of a device is, besides its queues, where not this process's. */
const ELSEWHERE: Readonly<Partial<Record<DatapathName, string>>> = {
  'vhost-user': 'its backend',
  vdpa: 'its vDPA device',
};

/**
 * Why a device cannot be served there. The position of a queue is only a part of a device's state: features,
 * configuration, filters and the like are those of the place that made them.
 */
function cannotServe(device: string, name: DatapathName, known: readonly DatapathName[]): Reason {
  const [own] = known;
  const from = own && ELSEWHERE[own];
  const to = ELSEWHERE[name];
  if (from !== undefined) {
    return [`${device} cannot leave ${from}, which has its features, configuration, and state`];
  }
  if (to === undefined)
    return [`${device} cannot be served by ${name}, only by ${known.join(' or ')}`];
  return [
    `${device} cannot move to ${name}, where a device has features, configuration, and state of its own`,
    `start the machine with a device by ${name}=`,
  ];
}

/** Owns a device's datapaths, of which one serves at a time. */
class DeviceDatapaths {
  readonly #device: string;
  readonly #table: DatapathTable;
  readonly #events: DatapathEvents;
  readonly #open = new Map<DatapathName, Datapath>();
  readonly #own: DatapathName;
  name: DatapathName;

  constructor(device: string, table: DatapathTable, events: DatapathEvents) {
    const [own] = table.keys();
    if (own === undefined) throw new InternalError(`${device} has no datapath`);
    this.#device = device;
    this.#table = table;
    this.#events = events;
    this.#own = own;
    this.name = own;
    // Its thread, if it has one, is ready before the driver is.
    this.get(own);
  }

  get current(): Datapath {
    return this.get(this.name);
  }

  /** @throws UsageError when it cannot serve the device */
  get(name: DatapathName): Datapath {
    let datapath = this.#open.get(name);
    if (datapath !== undefined) return datapath;
    const open = this.#table.get(name);
    if (open === undefined) {
      const reason = cannotServe(this.#device, name, [...this.#table.keys()]);
      throw new UsageError('E_DATAPATH', ...reason);
    }
    datapath = open(this.#events, () => this.get(this.#own));
    this.#open.set(name, datapath);
    return datapath;
  }

  /** @throws UsageError when a datapath cannot serve the device with these features negotiated */
  check(name: DatapathName, features: bigint): void {
    const missing = features & this.get(name).withheld;
    if (missing === 0n) return;
    if (missing === ACCESS_PLATFORM) {
      throw new UsageError(
        'E_IOMMU',
        `${this.#device}: ${name} does not support an IOMMU here (VIRTIO_F_ACCESS_PLATFORM)`,
        'leave it in userspace, or leave out iommu',
      );
    }
    const bits = Array.from({ length: 64 }, (_, bit) => bit).filter((b) => hasFeature(missing, b));
    throw new UsageError(
      'E_FEATURES',
      `${this.#device}: ${name} does not support what the driver negotiated (feature bits ${bits.join(', ')})`,
      `start the machine with ${name}=on, which does not offer them`,
    );
  }

  /**
   * Closes those that no longer serve a queue. The kernel may hold more than the rings: with
   * vhost-vsock, the guest's connections, which end for their programs too.
   */
  async releaseOthers(): Promise<void> {
    for (const [name, datapath] of this.#open) {
      if (name === this.#own || name === this.name) continue;
      this.#open.delete(name);
      await datapath.close();
    }
  }

  /** The driver reset the device: its own data half discards what the driver set. Nothing is started. */
  async reset(): Promise<void> {
    await this.#open.get(this.#own)?.reset?.();
  }

  /** The device's own data half was replaced. Nothing is started. */
  async renew(): Promise<void> {
    await this.#open.get(this.#own)?.close();
    this.#open.delete(this.#own);
    this.get(this.#own);
  }

  async close(): Promise<void> {
    const closing = [...this.#open.values()].toReversed().map((datapath) => datapath.close());
    const failed = (await Promise.allSettled(closing)).find(({ status }) => status === 'rejected');
    if (failed?.status === 'rejected') throw failed.reason;
  }
}

interface Hold {
  /** Chains that may still be taken: 0 or 1. */
  credits: number;
  /** The queue's position when it was last started. */
  from: number;
}

/** The chains that may still be taken from a held queue in this state. */
function creditsLeft({ credits, from }: Hold, { nextAvail }: VringState): number {
  return nextAvail === from ? credits : 0;
}

/** Which queues will resume where they stopped; the driver abandons the others. */
export type Continuing = 'all' | 'none' | { readonly except: readonly number[] };

/** The queues of one device. */
export class QueueService {
  readonly #device: string;
  readonly #datapaths: DeviceDatapaths;
  /** By queue. They outlive resets and reboots, until they are released. */
  readonly #holds = new Map<number, Hold>();
  #activation: Activation | undefined;
  #space: IovaSpace | undefined;
  #states: ReadonlyMap<number, VringState> = new Map();
  #served = false;

  /** @param device its name */
  constructor(device: string, table: DatapathTable, events: DatapathEvents) {
    this.#device = device;
    this.#datapaths = new DeviceDatapaths(device, table, events);
  }

  /** What the driver set up; undefined before DRIVER_OK. */
  get activation(): Activation | undefined {
    return this.#activation;
  }

  get isServed(): boolean {
    return this.#served;
  }

  /** Which datapath serves. */
  get datapath(): DatapathName {
    return this.#datapaths.name;
  }

  /** The thread of its own that it serves them in, by the kernel's id, if there is one. */
  get threadId(): number {
    return this.#datapaths.current.threadId ?? 0;
  }

  /** Resolves when its thread, if there is one, can serve at once. */
  async ready(): Promise<void> {
    await this.#datapaths.current.ready?.();
  }

  /** Feature bits that it does not support. */
  get withheld(): bigint {
    return this.#datapaths.current.withheld;
  }

  /** The device is behind an IOMMU, and uses these addresses. Nothing was served yet. */
  translate(space: IovaSpace): void {
    this.#space = space;
  }

  /** The position of each queue, if its datapath knows it. */
  async states(): Promise<ReadonlyMap<number, VringState>> {
    if (!this.#served) return this.#states;
    return (await this.#datapaths.current.states?.()) ?? new Map();
  }

  /** The driver set the queues up, or changed part of their setup. They are not served. */
  setUp(activation: Activation): void {
    this.#activation = activation;
  }

  /** The driver reset a queue: it restarts from the beginning. It is not served. */
  forget(queue: number): void {
    this.#states = new Map([...this.#states].filter(([index]) => index !== queue));
  }

  /** The driver reset the device. The queues are not served. */
  clear(): void {
    this.#activation = undefined;
    this.#states = new Map();
  }

  /**
   * Starts serving the queues, each from its last state.
   * @param config the configuration space
   * @throws HostError when they cannot be served
   */
  async start(config: Uint8Array): Promise<void> {
    if (this.#activation === undefined || this.#served) return;
    const { features } = this.#activation;
    const queues = this.#activation.queues.map((queue) => {
      const state = this.#states.get(queue.index);
      return state === undefined ? queue : { ...queue, state };
    });
    // §2.8.1: a packed queue starts with both wrap counters set.
    const fresh = hasFeature(features, VIRTIO_F_RING_PACKED) ? 0x8000 : 0;
    for (const { index, state } of queues) {
      const hold = this.#holds.get(index);
      if (hold !== undefined) hold.from = state?.nextAvail ?? fresh;
    }
    const holds = new Map([...this.#holds].map(([queue, { credits }]) => [queue, credits]));
    const held = holds.size === 0 ? {} : { holds };
    const activation = { ...this.#activation, config, queues, ...held };
    await this.#datapaths.current.start(activation, this.#space);
    this.#served = true;
  }

  /**
   * Stops serving the queues, and keeps the state of each.
   * @throws HostError when that is unknown: each starts from the beginning then
   */
  async stop(continuing: Continuing): Promise<void> {
    if (!this.#served) return;
    this.#served = false;
    const all = this.#activation?.queues.map(({ index }) => index) ?? [];
    const except = typeof continuing === 'string' ? [] : continuing.except;
    const queues = continuing === 'none' ? [] : all.filter((index) => !except.includes(index));
    try {
      this.#states = await this.#datapaths.current.stop(queues);
    } catch (error) {
      this.#states = new Map();
      throw error;
    }
    for (const [queue, hold] of this.#holds) {
      const state = this.#states.get(queue);
      // A queue that advanced has spent its credit.
      if (state !== undefined) hold.credits = creditsLeft(hold, state);
    }
  }

  /**
   * The queues interrupt elsewhere from now on.
   * @returns false when they must be stopped and started for that
   */
  async reroute(activation: Activation): Promise<boolean> {
    const { current } = this.#datapaths;
    if (!this.#served || current.reroute === undefined) return false;
    await current.reroute(activation.queues);
    this.#activation = activation;
    return true;
  }

  /** @throws UsageError when the queues cannot move there */
  checkMove(name: DatapathName): void {
    if (this.#holds.size > 0) this.checkHolds(name);
    const required = this.#space === undefined ? 0n : ACCESS_PLATFORM;
    this.#datapaths.check(name, (this.#activation?.features ?? 0n) | required);
  }

  /** The queues are not served, and will be by another datapath. */
  choose(name: DatapathName): void {
    this.#datapaths.name = name;
  }

  /** Closes the datapaths that no longer serve a queue. */
  releaseOthers(): Promise<void> {
    return this.#datapaths.releaseOthers();
  }

  /** The driver reset the device. The queues are not served. */
  reset(): Promise<void> {
    return this.#datapaths.reset();
  }

  /** The device's own data half was replaced. The queues are not served. */
  renew(): Promise<void> {
    return this.#datapaths.renew();
  }

  /** Passes a message to the data half. @param key see `DeviceHost.post` */
  post(message: unknown, key?: string): void {
    this.#datapaths.current.post(message, key);
  }

  /** @throws UsageError when a datapath does not support holding queues */
  checkHolds(name: DatapathName = this.datapath): void {
    const reason = NO_HOLDS[name]?.(this.#device);
    if (reason === undefined || this.#datapaths.get(name).hasRings === true) return;
    throw new UsageError('E_HELD', `${this.#device}: ${reason[0]}`, reason[1]);
  }

  /** Allows this many more chains to be taken from a queue, then none. The queues are not served. */
  hold(queue: number, credits: 0 | 1): void {
    this.#holds.set(queue, { credits, from: -1 });
  }

  /** Allows chains to be taken again. The queues are not served. */
  release(queue: number): void {
    this.#holds.delete(queue);
  }

  /**
   * Chains that may still be taken from a queue; undefined when it is not held.
   * @param state its current state, if known
   */
  credits(queue: number, state?: VringState): number | undefined {
    const hold = this.#holds.get(queue);
    return hold === undefined || state === undefined ? hold?.credits : creditsLeft(hold, state);
  }

  close(): Promise<void> {
    return this.#datapaths.close();
  }
}
