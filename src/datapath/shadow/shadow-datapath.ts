/**
 * Serves a device's queues through shadow rings. A thread of ours has the driver's rings, and copies what is in them into and out
 * of a small memory, which is all that the other datapath gets: it can neither read nor write the guest's RAM.
 *
 *     driver's ring ── ShadowHandler, in a queue worker ── shadow ring ── the other datapath
 */
import * as ring from '../../abi/virtio-ring.ts';
import { featureSet } from '../../abi/virtio-ring.ts';
import { CleanupStack } from '../../host/cleanup-stack.ts';
import { InternalError } from '../../host/errors.ts';
import { Eventfd } from '../../host/fd.ts';
import { Ram } from '../../memory/ram.ts';
import type { QueueSpec } from '../../virtio/device.ts';
import type { QueueConfig, VringState } from '../../virtio/queue/virtqueue.ts';
import type { Activation, Datapath, DatapathEvents } from '../datapath.ts';
import { QueueWorkerDatapath } from '../queue-worker.ts';
import type { ShadowEnds, ShadowHandlerOptions } from './shadow-handler.ts';
import { shadowLayout } from './shadow-layout.ts';
import { shadowSize } from './shadow-queue.ts';

/** Features between the driver and us: a shadow ring is a plain split ring at addresses of its own. */
const DRIVER_FEATURES = featureSet(
  ring.VIRTIO_F_INDIRECT_DESC,
  ring.VIRTIO_F_EVENT_IDX,
  ring.VIRTIO_F_ACCESS_PLATFORM,
  ring.VIRTIO_F_RING_PACKED,
  ring.VIRTIO_F_NOTIFICATION_DATA,
  ring.VIRTIO_F_RING_RESET,
);
/** A queue that resumes with chains in flight cannot return them in order. */
const WITHHELD = featureSet(ring.VIRTIO_F_IN_ORDER);

/** Owns the shadow memory, and the datapath behind it. */
export class ShadowDatapath implements Datapath {
  readonly withheld: bigint;
  readonly hasRings = true;
  readonly #behind: Datapath;
  readonly #front: QueueWorkerDatapath;
  readonly #ram: Ram;
  readonly #ends: readonly ShadowEnds[];
  readonly #owned: CleanupStack;
  #started = false;

  /**
   * @param name of the device
   * @param queues of the device
   * @param open makes the datapath that serves the requests
   * @throws HostError when the host has no room
   */
  constructor(
    name: string,
    queues: readonly QueueSpec[],
    open: (events: DatapathEvents) => Datapath,
    events: DatapathEvents,
  ) {
    using stack = new CleanupStack();
    const layout = shadowLayout(queues.map(({ maxSize }) => maxSize));
    this.#ram = stack.use(new Ram(layout.size, 'memfd'));
    this.#ends = layout.queues.map((places) => ({
      places,
      kickFd: stack.use(new Eventfd()).fd,
      callFd: stack.use(new Eventfd()).fd,
    }));
    this.#behind = open(events);
    this.withheld = (this.#behind.withheld & ~DRIVER_FEATURES) | WITHHELD;
    const options: ShadowHandlerOptions = {
      address: this.#ram.memory.address,
      queues: this.#ends,
    };
    const module = new URL('./shadow-handler.js', import.meta.url).href;
    this.#front = new QueueWorkerDatapath({ name, module, options }, events);
    this.#owned = stack.move();
  }

  get threadId(): number {
    return this.#front.threadId;
  }

  ready(): Promise<void> {
    return this.#front.ready();
  }

  async start(activation: Activation): Promise<void> {
    // The rings are fresh once the handler has started.
    await this.#front.start(activation);
    this.#started = true;
    try {
      const { features, config } = activation;
      await this.#behind.start({
        memory: this.#ram.memory.share,
        features: features & ~DRIVER_FEATURES,
        ...(config === undefined ? {} : { config }),
        queues: activation.queues.map((queue) => this.#shadowOf(queue)),
      });
    } catch (error) {
      await this.stop(activation.queues.map(({ index }) => index));
      throw error;
    }
  }

  async stop(continuing: readonly number[] = []): Promise<ReadonlyMap<number, VringState>> {
    if (!this.#started) return new Map();
    this.#started = false;
    try {
      // What it completes until then is returned to the driver.
      await this.#behind.stop(continuing);
    } catch (error) {
      await this.#front.stop();
      throw error;
    }
    return await this.#front.stop(continuing);
  }

  async reset(): Promise<void> {
    await this.#front.reset();
    await this.#behind.reset?.();
  }

  states(): Promise<ReadonlyMap<number, VringState>> {
    return this.#front.states();
  }

  post(message: unknown, key?: string): void {
    this.#behind.post(message, key);
  }

  async close(): Promise<void> {
    try {
      await this.#behind.close();
    } finally {
      await this.#front.close();
      this.#owned.dispose();
    }
  }

  #shadowOf({ index, size }: QueueConfig): QueueConfig {
    const ends = this.#ends[index];
    if (ends === undefined) throw new InternalError(`there is no queue ${index}`);
    const { places, kickFd, callFd } = ends;
    const { descriptorArea, driverArea, deviceArea } = places;
    return {
      index,
      size: shadowSize(size),
      descriptorArea,
      driverArea,
      deviceArea,
      kickFd,
      callFd,
    };
  }
}
