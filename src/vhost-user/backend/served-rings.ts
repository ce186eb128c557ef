/** The rings of a session, served by the device's datapath as far as the frontend has set them up. */
import { VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1 } from '../../abi/virtio-ring.ts';
import { StepQueue } from '../../datapath/step-queue.ts';
import { messageOf, PeerError } from '../../host/errors.ts';
import { signalEventfd } from '../../host/fd.ts';
import { hasFeature } from '../../virtio/features.ts';
import type { QueueConfig, VringState } from '../../virtio/queue/virtqueue.ts';
import { protocolError } from '../message.ts';
import type { ExportedDevice } from './exported-device.ts';
import { ExportedRing } from './exported-ring.ts';
import type { FrontendMemory } from './frontend-memory.ts';
import type { InflightBuffer } from './inflight-buffer.ts';

/** The used ring's index, behind its flags (virtio 1.3 §2.7.8). */
const USED_INDEX = 2;
const USED_HEAD = 4;
/** How often rings without a kick descriptor are looked at, in milliseconds. */
const KICK_INTERVAL = 1;

/**
 * Any change of what is served stops all of it first, and has it started again later: changes come
 * in bursts, and `serve` is called once after each.
 */
export class ServedRings {
  readonly #exported: ExportedDevice;
  readonly #memory: FrontendMemory;
  readonly #rings: readonly ExportedRing[];
  #features: bigint | undefined;
  /** The frontend enables each ring (VHOST_USER_F_PROTOCOL_FEATURES). */
  enabling = false;
  #running = false;
  #broken = false;
  #open = true;
  readonly #steps = new StepQueue();
  #planned = false;
  /** Where the rings note what is in flight, if the frontend wants that. */
  #inflight: InflightBuffer | undefined;
  /** Stands in for a frontend that sends no kicks. */
  #kicker: NodeJS.Timeout | undefined;

  constructor(exported: ExportedDevice, memory: FrontendMemory) {
    this.#exported = exported;
    this.#memory = memory;
    const rings: ExportedRing[] = [];
    this.#rings = rings;
    try {
      for (const index of exported.queueSizes.keys()) rings.push(new ExportedRing(index));
    } catch (error) {
      for (const ring of rings) ring[Symbol.dispose]();
      throw error;
    }
  }

  /** True while the driver has to reset the device. */
  get isBroken(): boolean {
    return this.#broken;
  }

  /** The frontend has taken away the record of what is in flight. */
  get truncated(): boolean {
    return this.#inflight?.truncated === true;
  }

  get isPacked(): boolean {
    return hasFeature(this.#features ?? 0n, VIRTIO_F_RING_PACKED);
  }

  /** @throws PeerError when the device has no such ring */
  ring(index: number): ExportedRing {
    const ring = this.#rings[index];
    if (ring !== undefined) return ring;
    throw protocolError(`ring ${index} of a device with ${this.#rings.length}`);
  }

  /** Makes a change while nothing is served, and has what is left to serve served afterwards. */
  async change(what: () => void): Promise<void> {
    await this.#steps.run(async () => {
      await this.#halt();
      what();
    });
    this.#plan();
  }

  /** All negotiated feature bits. Within `change`. */
  setFeatures(features: bigint): void {
    this.#features = features;
  }

  /** VHOST_USER_SET_INFLIGHT_FD. Within `change`. @param inflight owned from here on */
  setInflight(inflight: InflightBuffer): void {
    this.#inflight?.[Symbol.dispose]();
    this.#inflight = inflight;
  }

  /** What VHOST_USER_GET_VRING_BASE answers. The ring is not served any more. */
  base(ring: ExportedRing): number {
    if (ring.state === undefined) return ring.base;
    const { nextAvail, nextUsed } = ring.state;
    return this.isPacked ? (nextAvail | (nextUsed << 16)) >>> 0 : nextAvail;
  }

  /** VHOST_USER_RESET_DEVICE, or a status of 0. Within `change`. */
  reset(): void {
    for (const ring of this.#rings) ring.reset();
    this.#broken = false;
    this.#inflight?.clear();
    this.#exported.reset();
  }

  /** VHOST_USER_RESET_OWNER. Within `change`. */
  disableAll(): void {
    for (const ring of this.#rings) ring.enabled = false;
  }

  /** The driver set all up anew: what it broke before is forgotten. Within `change`. */
  stopped(ring: ExportedRing): void {
    ring.started = false;
    // What could not be finished has to be found by who starts the ring again.
    const { state } = ring;
    if (state !== undefined && state.nextAvail === state.nextUsed) {
      this.#inflight?.clearRing(ring.index);
    }
    if (!this.#rings.some(({ started }) => started)) this.#broken = false;
  }

  /** A rule was broken; nothing is served before the driver resets the device. */
  break(reason: string): void {
    if (this.#broken || !this.#open) return;
    this.#broken = true;
    this.#exported.log(`stopped: ${reason}`);
    for (const ring of this.#rings) ring.signalError();
  }

  /** Stops serving for good, and gives all descriptors back. */
  async close(): Promise<void> {
    this.#open = false;
    await this.#steps.run(() => this.#halt());
    this.#inflight?.[Symbol.dispose]();
    for (const ring of this.#rings) ring[Symbol.dispose]();
  }

  /** After the messages that are waiting. */
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
    checkFeatures(negotiated, this.#exported.featureDependencies);
    const features = this.#exported.servedFeatures(negotiated);
    const queues = rings.map((ring) => this.#config(ring));
    const { poll } = this.#exported;
    await this.#exported.datapath.start({ memory, features, queues, poll });
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
    for (const [index, state] of await this.#exported.datapath.stop()) {
      const ring = this.#rings[index];
      if (ring !== undefined) ring.state = state;
    }
  }

  /** @throws PeerError when the ring lies outside of the memory that is shared */
  #config(ring: ExportedRing): QueueConfig {
    const { index, size, address, kickFd, callFd } = ring;
    if (address === undefined) throw protocolError(`ring ${index} started without its addresses`);
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

  /** A split ring holds its used index; a packed one's is in the base. */
  #initialState({ index, base }: ExportedRing, usedRing: number): VringState {
    if (this.isPacked) {
      const nextAvail = base & 0xffff;
      // Some frontends (DPDK) know of one half only, and have nothing in flight then.
      return { nextAvail, nextUsed: base >>> 16 === 0 ? nextAvail : base >>> 16 };
    }
    const view = this.#memory.view;
    const offset = view?.offset(usedRing, USED_HEAD) ?? -1;
    if (view === undefined || offset < 0 || offset % 2 !== 0) {
      throw protocolError(`the used ring of ring ${index} is not in guest memory`);
    }
    return { nextAvail: base & 0xffff, nextUsed: view.readU16(offset + USED_INDEX) };
  }
}

/** @throws PeerError with the clause when the driver may not negotiate these */
function checkFeatures(
  features: bigint,
  dependencies: readonly (readonly [number, number])[],
): void {
  if (!hasFeature(features, VIRTIO_F_VERSION_1)) {
    throw new PeerError(
      'E_LEGACY_DRIVER',
      'the driver is a legacy one; have the frontend offer a modern device (virtio 1.3 §6.1)',
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
