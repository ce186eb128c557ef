/**
 * Serves a device's queues in the host kernel: the ioeventfd wakes the kernel's worker, which
 * signals the irqfd. Queues that the kernel does not serve, such as a network device's control
 * queue, stay with the device's own datapath.
 */
import type { Activation, Datapath, DatapathEvents } from '../datapath/datapath.ts';
import { InternalError } from '../host/errors.ts';
import { Eventfd, signalEventfd } from '../host/fd.ts';
import { LOOP_READABLE, LoopWatch } from '../host/main-loop.ts';
import { type DeniedAccess, GuestMemory } from '../memory/guest-memory.ts';
import type { IovaSpace } from '../memory/iova-space.ts';
import { ringAreas } from '../virtio/queue/create-virtqueue.ts';
import type { VringState } from '../virtio/queue/virtqueue.ts';
import { KERNEL_FEATURES, type VhostBackend } from './vhost-backend.ts';
import { VhostIotlb } from './vhost-iotlb.ts';

/** From one activation to its end. */
interface VhostRun {
  readonly memory: GuestMemory;
  readonly backends: readonly VhostBackend[];
  /** Of the backends, behind an IOMMU. */
  readonly iotlbs: VhostIotlb[];
}

/** On the main thread: it only sets up and tears down. */
export class VhostDatapath implements Datapath {
  readonly withheld: bigint;
  readonly #backends: readonly VhostBackend[];
  readonly #fallback: Datapath;
  readonly #events: DatapathEvents;
  /** The kernel signals it when a driver breaks a rule. */
  readonly #error = new Eventfd();
  readonly #watch: LoopWatch;
  #run: VhostRun | undefined;

  /**
   * @param backends at least one; owned from here on
   * @param fallback serves the other queues; still owned by the caller
   */
  constructor(backends: readonly VhostBackend[], fallback: Datapath, events: DatapathEvents) {
    this.#backends = backends;
    this.#fallback = fallback;
    this.#events = events;
    const served = backends.reduce((all, { vhost }) => all & vhost.features, KERNEL_FEATURES);
    this.withheld = fallback.withheld | (KERNEL_FEATURES & ~served);
    this.#watch = new LoopWatch(this.#error.fd, LOOP_READABLE, () => {
      if (this.#error.drain() && this.#run !== undefined) {
        this.#events.broken('vhost found an invalid ring or buffer');
      }
    });
  }

  async start(activation: Activation, space?: IovaSpace): Promise<void> {
    if (this.#run !== undefined) throw new InternalError('a datapath was started twice');
    const { queues } = activation;
    const enabled = new Set(queues.map(({ index }) => index));
    const backends = this.#backends.filter((backend) =>
      backend.queues.every((index) => enabled.has(index)),
    );
    const taken = new Set(backends.flatMap((backend) => backend.queues));
    const rest = {
      ...activation,
      // The driver seldom uses what is left.
      poll: 'off' as const,
      queues: queues.filter(({ index }) => !taken.has(index)),
    };
    await this.#fallback.start(rest, space);
    this.#error.drain();
    this.#run = { memory: new GuestMemory(activation.memory), backends, iotlbs: [] };
    try {
      for (const backend of backends) this.#setUp(backend, activation, this.#run, space);
      for (const backend of backends) backend.run();
      // The kernel looks at a ring when it is kicked; the driver may already have done so.
      for (const { index, kickFd } of queues) if (taken.has(index)) signalEventfd(kickFd);
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  #setUp(
    { vhost, queues: served }: VhostBackend,
    { queues, features }: Activation,
    run: VhostRun,
    space: IovaSpace | undefined,
  ): void {
    const configs = served.flatMap((index) => queues.filter((queue) => queue.index === index));
    const accepted = features & KERNEL_FEATURES;
    if (space === undefined) vhost.configure(run.memory, accepted);
    else vhost.configureTranslated(space, accepted);
    for (const [ring, config] of configs.entries()) {
      vhost.setUpRing(ring, config, features, this.#error.fd);
    }
    if (space === undefined) return;
    const iotlb = new VhostIotlb(vhost, space, (access) => this.#denied(access));
    run.iotlbs.push(iotlb);
    // The kernel writes to a ring before it could ask for its place.
    for (const config of configs) iotlb.prefault(ringAreas(config, features));
  }

  /** Nothing is served any more: what the kernel asks for next would not be answered either. */
  #denied(access: DeniedAccess): void {
    for (const backend of this.#run?.backends ?? []) backend.halt();
    this.#events.broken('vhost met an address that the IOMMU does not permit', access);
  }

  async stop(): Promise<ReadonlyMap<number, VringState>> {
    const run = this.#run;
    if (run === undefined) return new Map();
    this.#run = undefined;
    const states = new Map<number, VringState>();
    try {
      for (const backend of run.backends) {
        backend.halt();
        for (const ring of backend.queues.keys()) {
          const stopped = backend.vhost.takeBack(ring);
          if (stopped !== undefined) states.set(...stopped);
        }
      }
    } finally {
      for (const iotlb of run.iotlbs) iotlb.close();
      run.memory.detach();
      for (const [index, state] of await this.#fallback.stop()) states.set(index, state);
    }
    return states;
  }

  /** Only of the queues that the kernel does not serve. */
  async states(): Promise<ReadonlyMap<number, VringState>> {
    return (await this.#fallback.states?.()) ?? new Map();
  }

  post(message: unknown, key?: string): void {
    this.#fallback.post(message, key);
  }

  /** Does not close the fallback. */
  async close(): Promise<void> {
    try {
      await this.stop();
    } finally {
      this.#watch.close();
      this.#error.close();
      for (const backend of this.#backends) backend.close();
    }
  }
}
