/** The rings of a session: what the frontend has set up, and their service by the device's datapath. */
import {
  hasFeature,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../abi/virtio-ring.ts';
import { StepQueue } from '../../datapath/datapath.ts';
import { CleanupStack, Closeable } from '../../host/cleanup-stack.ts';
import { messageOf, PeerError } from '../../host/errors.ts';
import { checkEventfd, Eventfd, type Fd, replaceFd, signalEventfd } from '../../host/fd.ts';
import type { DeniedAccess, GuestMemoryShare } from '../../memory/guest-memory.ts';
import type { IotlbMessage } from '../../vhost/iotlb-message.ts';
import { ringAreas } from '../../virtio/queue/create-virtqueue.ts';
import {
  type QueueConfig,
  type VringState,
  vringBase,
  vringState,
} from '../../virtio/queue/virtqueue.ts';
import { protocolError } from '../message.ts';
import type { VringAddress } from '../payload.ts';
import type { BackendDevice } from './backend-device.ts';
import { BackendIotlb } from './backend-iotlb.ts';
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
  /**
   * The frontend has a channel for requests, and can be asked for addresses. One without it may accept
   * VIRTIO_F_ACCESS_PLATFORM nevertheless, and uses its own addresses.
   */
  asking = false;
  /** Behind the frontend's IOMMU. */
  #iotlb: BackendIotlb | undefined;
  /** The memory that it is for. */
  #shared: GuestMemoryShare | undefined;
  /** The address that the frontend has yet to send: nothing is served until it comes. */
  #missing: DeniedAccess | undefined;
  readonly #ask: (access: DeniedAccess) => Promise<boolean>;
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

  /** @param ask asks the frontend for an address that its IOMMU translates; false: it does not give it */
  constructor(
    device: BackendDevice,
    memory: FrontendMemory,
    ask: (access: DeniedAccess) => Promise<boolean>,
  ) {
    this.#ask = ask;
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
      this.#missing = undefined;
      await make();
      if (!this.#isTranslated || this.#memory.share !== this.#shared) this.#closeIotlb();
    });
    this.#plan();
  }

  /** All negotiated feature bits. Within `change`. */
  setFeatures(features: bigint): void {
    this.#features = features;
  }

  /**
   * VHOST_USER_IOTLB_MSG, while rings are served or about to be stopped: what is in flight may take long, and the
   * frontend's guest waits. Not during a `change`, which may end the IOTLB. @throws PeerError
   */
  changeIotlb(message: IotlbMessage): undefined {
    this.#openIotlb()?.change(message);
    const missing = this.#missing;
    if (missing === undefined || !this.#permits(missing)) return;
    this.#missing = undefined;
    this.#plan();
  }

  /** The datapath serves nothing any more. @param denied the address that it met, if that was it */
  failed(reason: string, denied?: DeniedAccess): void {
    if (this.#iotlb === undefined || denied === undefined) {
      this.break(reason);
      return;
    }
    void this.#steps.run(async () => {
      await this.#halt();
      await this.#askFor(denied, reason);
    });
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
    this.#closeIotlb();
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
    if (this.#running || this.#broken || !this.#open || this.#missing !== undefined) return;
    const space = this.#openIotlb()?.space;
    const memory = space?.share ?? this.#memory.share;
    if (negotiated === undefined || memory === undefined) return;
    const rings = this.#rings.filter(
      (ring) => ring.started && ring.size > 0 && (ring.enabled || !this.enabling),
    );
    if (rings.length === 0) return;
    checkFeatures(negotiated, this.#device.featureDependencies);
    const features = this.#device.servedFeatures(negotiated);
    if (space !== undefined && (await this.#missRings(rings, features))) return;
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

  get #isTranslated(): boolean {
    return this.asking && hasFeature(this.#features ?? 0n, VIRTIO_F_ACCESS_PLATFORM);
  }

  /** Undefined when the device is behind no IOMMU, or has no memory yet. */
  #openIotlb(): BackendIotlb | undefined {
    if (!this.#isTranslated || this.#memory.share === undefined) return undefined;
    this.#iotlb ??= new BackendIotlb(this.#memory);
    this.#shared = this.#memory.share;
    return this.#iotlb;
  }

  /** Nothing is served. */
  #closeIotlb(): void {
    this.#iotlb?.close();
    this.#iotlb = undefined;
  }

  #permits({ address, write }: DeniedAccess): boolean {
    return (this.#iotlb?.space.memory.offset(address, 1, write) ?? -1) >= 0;
  }

  /** Asks for the first address of the rings that is not known. @returns whether there is one */
  async #missRings(rings: readonly Vring[], features: bigint): Promise<boolean> {
    const memory = this.#iotlb?.space.memory;
    for (const ring of rings) {
      const { index, size, kickFd, callFd } = ring;
      const config = { index, size, kickFd, callFd, ...this.#areas(ring) };
      for (const { address, length, written } of ringAreas(config, features)) {
        if (memory === undefined || memory.offset(address, length, written) >= 0) continue;
        const { denied } = memory;
        if (denied === undefined) continue;
        await this.#askFor(denied, `the IOMMU does not map ring ${index}`);
        return true;
      }
    }
    return false;
  }

  /** The answer comes as a message, which must not wait for this. */
  async #askFor(denied: DeniedAccess, reason: string): Promise<void> {
    // It may have come since.
    if (this.#permits(denied)) {
      this.#plan();
      return;
    }
    this.#missing = denied;
    this.#ask(denied).then(
      (given) => {
        if (!given && this.#missing === denied) this.break(reason);
      },
      () => {},
    );
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
    const { index, size, kickFd, callFd } = ring;
    const areas = this.#areas(ring);
    const state = ring.state ?? this.#initialState(ring, areas.deviceArea);
    const inflight = this.#inflight?.place(index);
    const record = inflight === undefined ? {} : { inflight };
    return { index, size, ...areas, kickFd, callFd, state, ...record };
  }

  /** @throws PeerError when the ring is outside of shared memory */
  #areas({
    index,
    address,
  }: Vring): Pick<QueueConfig, 'descriptorArea' | 'driverArea' | 'deviceArea'> {
    if (address === undefined) throw protocolError(`ring ${index} started without addresses`);
    const place = (what: string, userAddress: number): number => {
      if (this.#isTranslated) return userAddress;
      const gpa = this.#memory.guestAddress(userAddress);
      if (gpa >= 0) return gpa;
      const at = `0x${userAddress.toString(16)}`;
      throw protocolError(`the ${what} of ring ${index}, at ${at}, is in no memory region`);
    };
    return {
      descriptorArea: place('descriptor area', address.descriptor),
      driverArea: place('available ring', address.available),
      deviceArea: place('used ring', address.used),
    };
  }

  #initialState({ index, base }: Vring, usedRing: number): VringState {
    const view = this.#iotlb?.space.memory ?? this.#memory.view;
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
