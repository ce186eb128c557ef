/** The rings of a session: what the frontend has set up, and their service by the device's datapath. */
import { hasFeature, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '../../abi/virtio-ring.ts';
import { StepQueue } from '../../datapath/datapath.ts';
import { CleanupStack, Closeable } from '../../host/cleanup-stack.ts';
import { messageOf, PeerError } from '../../host/errors.ts';
import { checkEventfd, Eventfd, type Fd, replaceFd, signalEventfd } from '../../host/fd.ts';
import {
  type QueueConfig,
  type VringState,
  vringBase,
  vringState,
} from '../../virtio/queue/virtqueue.ts';
import { protocolError } from '../message.ts';
import type { VringAddress } from '../payload.ts';
import type { BackendDevice } from './backend-device.ts';
import type { FrontendMemory } from './frontend-memory.ts';
import type { InflightBuffer } from './inflight-buffer.ts';

/** Bytes of a used ring before its entries (virtio 1.3 §2.7.8). */
const USED_HEAD = 4;
/** How often rings without a kick descriptor are kicked, in milliseconds. */
const KICK_INTERVAL = 1;

/** A ring as the frontend has described it so far, and its descriptors. */
export class Vring extends Closeable {
  readonly index: number;
  size = 0;
  address: VringAddress | undefined;
  /** From the last VHOST_USER_SET_VRING_BASE. */
  base = 0;
  /** Where it stopped; supersedes `base`. */
  state: VringState | undefined;
  /** Between VHOST_USER_SET_VRING_KICK and GET_VRING_BASE. */
  started = false;
  enabled = false;
  /** The frontend sends no kicks. */
  polled = false;
  /** Keeps its number when the frontend replaces it, also while the ring is served. */
  readonly #call = new Eventfd();
  #kick: Fd | undefined;
  #error: Fd | undefined;

  constructor(index: number) {
    super();
    this.index = index;
  }

  get kickFd(): number {
    return this.#kick?.fd ?? -1;
  }

  get callFd(): number {
    return this.#call.fd;
  }

  /**
   * Starts the ring, which is not being served.
   * @param fd owned from here on; undefined when the frontend sends no kicks
   * @throws PeerError when it is not an eventfd
   */
  setKick(fd: Fd | undefined): void {
    checkPeerEventfd(fd);
    this.#kick?.close();
    this.#kick = fd ?? new Eventfd();
    this.polled = fd === undefined;
    this.started = true;
  }

  /** @param fd owned from here on. @throws PeerError when it is not an eventfd */
  setCall(fd: Fd | undefined): void {
    using given = checkPeerEventfd(fd) ?? new Eventfd();
    replaceFd(this.#call.fd, given.fd);
  }

  /** @param fd owned from here on. @throws PeerError when it is not an eventfd */
  setError(fd: Fd | undefined): void {
    checkPeerEventfd(fd);
    this.#error?.close();
    this.#error = fd;
  }

  /** Notifies the frontend that the ring is no longer served. */
  signalError(): void {
    if (this.#error !== undefined) signalEventfd(this.#error.fd);
  }

  /** VHOST_USER_RESET_DEVICE: keeps the size only. The ring is not being served. */
  reset(): void {
    this.started = false;
    this.enabled = false;
    this.state = undefined;
    this.base = 0;
    this.address = undefined;
  }

  close(): void {
    this.#call.close();
    this.#kick?.close();
    this.#error?.close();
  }
}

/**
 * Any change stops all rings first, and starts them again later: changes come in bursts, and rings
 * are started once after each.
 */
export class Vrings {
  readonly #device: BackendDevice;
  readonly #memory: FrontendMemory;
  readonly #rings: readonly Vring[];
  #features: bigint | undefined;
  /** The frontend enables each ring (VHOST_USER_F_PROTOCOL_FEATURES). */
  enabling = false;
  #running = false;
  #broken = false;
  #open = true;
  readonly #owned: CleanupStack;
  readonly #steps = new StepQueue();
  #planned = false;
  /** Absent unless the frontend asked for it. */
  #inflight: InflightBuffer | undefined;
  /** Kicks for a frontend that sends none. */
  #kicker: NodeJS.Timeout | undefined;

  constructor(device: BackendDevice, memory: FrontendMemory) {
    this.#device = device;
    this.#memory = memory;
    using stack = new CleanupStack();
    this.#rings = device.queueSizes.map((_, index) => stack.use(new Vring(index)));
    this.#owned = stack.move();
  }

  /** True until the driver resets the device. */
  get isBroken(): boolean {
    return this.#broken;
  }

  /** The frontend has truncated the inflight buffer. */
  get truncated(): boolean {
    return this.#inflight?.truncated === true;
  }

  get isPacked(): boolean {
    return hasFeature(this.#features ?? 0n, VIRTIO_F_RING_PACKED);
  }

  /** @throws PeerError when the device has no such ring */
  ring(index: number): Vring {
    const ring = this.#rings[index];
    if (ring !== undefined) return ring;
    throw protocolError(`ring ${index} of a device with ${this.#rings.length}`);
  }

  /** Makes a change while no ring is served, and serves the rings that are ready afterwards. */
  async change(make: () => void | Promise<void>): Promise<undefined> {
    await this.#steps.run(async () => {
      await this.#halt();
      await make();
    });
    this.#plan();
  }

  /** All negotiated feature bits. Within `change`. */
  setFeatures(features: bigint): void {
    this.#features = features;
  }

  /** VHOST_USER_SET_INFLIGHT_FD. Within `change`. @param inflight owned from here on */
  setInflight(inflight: InflightBuffer): void {
    this.#inflight?.close();
    this.#inflight = inflight;
  }

  /** The reply to VHOST_USER_GET_VRING_BASE. The ring is stopped. */
  base({ state, base }: Vring): number {
    return state === undefined ? base : vringBase(state, this.isPacked);
  }

  /** VHOST_USER_RESET_DEVICE, or a status of 0. Within `change`. */
  async reset(): Promise<void> {
    for (const ring of this.#rings) ring.reset();
    this.#broken = false;
    this.#inflight?.clear();
    await this.#device.reset();
  }

  /** VHOST_USER_RESET_OWNER. Within `change`. */
  disableAll(): void {
    for (const ring of this.#rings) ring.enabled = false;
  }

  /** VHOST_USER_GET_VRING_BASE. Once all rings are stopped, a failure is over. Within `change`. */
  stop(ring: Vring): void {
    ring.started = false;
    // Unfinished requests stay recorded for the next start of the ring.
    const { state } = ring;
    if (state !== undefined && state.nextAvail === state.nextUsed) {
      this.#inflight?.clearRing(ring.index);
    }
    if (!this.#rings.some(({ started }) => started)) this.#broken = false;
  }

  /** The driver broke a rule; no ring is served until it resets the device. */
  break(reason: string): void {
    if (this.#broken || !this.#open) return;
    this.#broken = true;
    this.#device.log(`stopped: ${reason}`);
    for (const ring of this.#rings) ring.signalError();
  }

  /** Stops serving for good, and closes all descriptors. */
  async close(): Promise<void> {
    this.#open = false;
    await this.#steps.run(() => this.#halt());
    this.#inflight?.close();
    this.#owned.dispose();
  }

  /** Serves the rings after the messages that are already waiting. */
  #plan(): void {
    if (this.#planned) return;
    this.#planned = true;
    setImmediate(() => {
      this.#planned = false;
      void this.#steps.run(async () => {
        try {
          await this.#serve();
        } catch (error) {
          this.break(messageOf(error));
        }
      });
    });
  }

  async #serve(): Promise<void> {
    const negotiated = this.#features;
    const memory = this.#memory.share;
    if (this.#running || this.#broken || !this.#open) return;
    if (negotiated === undefined || memory === undefined) return;
    const rings = this.#rings.filter(
      (ring) => ring.started && ring.size > 0 && (ring.enabled || !this.enabling),
    );
    if (rings.length === 0) return;
    checkFeatures(negotiated, this.#device.featureDependencies);
    const features = this.#device.servedFeatures(negotiated);
    const queues = rings.map((ring) => this.#config(ring));
    const { poll } = this.#device;
    await this.#device.datapath.start({ memory, features, queues, poll });
    this.#running = true;
    const polled = rings.filter((ring) => ring.polled);
    if (polled.length === 0 || poll === 'always') return;
    this.#kicker = setInterval(() => {
      for (const ring of polled) signalEventfd(ring.kickFd);
    }, KICK_INTERVAL);
  }

  async #halt(): Promise<void> {
    clearInterval(this.#kicker);
    if (!this.#running) return;
    this.#running = false;
    for (const [index, state] of await this.#device.datapath.stop()) {
      const ring = this.#rings[index];
      if (ring !== undefined) ring.state = state;
    }
  }

  /** @throws PeerError when the ring is outside of shared memory */
  #config(ring: Vring): QueueConfig {
    const { index, size, address, kickFd, callFd } = ring;
    if (address === undefined) throw protocolError(`ring ${index} started without addresses`);
    const place = (what: string, userAddress: number): number => {
      const gpa = this.#memory.guestAddress(userAddress);
      if (gpa >= 0) return gpa;
      const at = `0x${userAddress.toString(16)}`;
      throw protocolError(`the ${what} of ring ${index}, at ${at}, is in no memory region`);
    };
    const areas = {
      descriptorArea: place('descriptor area', address.descriptor),
      driverArea: place('available ring', address.available),
      deviceArea: place('used ring', address.used),
    };
    const state = ring.state ?? this.#initialState(ring, areas.deviceArea);
    const inflight = this.#inflight?.place(index);
    const record = inflight === undefined ? {} : { inflight };
    return { index, size, ...areas, kickFd, callFd, state, ...record };
  }

  #initialState({ index, base }: Vring, usedRing: number): VringState {
    const { view } = this.#memory;
    const offset = view?.offset(usedRing, USED_HEAD) ?? -1;
    if (view === undefined || offset < 0 || offset % 2 !== 0) {
      throw protocolError(`the used ring of ring ${index} is not in guest memory`);
    }
    // Some frontends (DPDK) set one half only, and have nothing in flight then.
    const isHalf = this.isPacked && base >>> 16 === 0;
    return vringState(isHalf ? base | (base << 16) : base, this.isPacked, view, offset);
  }
}

/** @throws PeerError when the driver must not negotiate these */
function checkFeatures(
  features: bigint,
  dependencies: readonly (readonly [number, number])[],
): void {
  if (!hasFeature(features, VIRTIO_F_VERSION_1)) {
    throw new PeerError(
      'E_LEGACY_DRIVER',
      'the driver is a legacy driver',
      'have the frontend offer a modern device (virtio 1.3 §6.1)',
    );
  }
  for (const [bit, needs] of dependencies) {
    if (!hasFeature(features, bit) || hasFeature(features, needs)) continue;
    throw new PeerError(
      'E_FEATURES',
      `feature bit ${bit} was negotiated without bit ${needs} (virtio 1.3 §2.2)`,
    );
  }
}

/** Closes what is not an eventfd. @throws PeerError */
function checkPeerEventfd(fd: Fd | undefined): Fd | undefined {
  if (fd === undefined) return undefined;
  try {
    checkEventfd(fd.fd);
    return fd;
  } catch (error) {
    fd.close();
    throw error;
  }
}
