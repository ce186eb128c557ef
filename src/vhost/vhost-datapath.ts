/**
 * Serves a device's queues in the host kernel: a kick goes from the ioeventfd straight to the
 * kernel's worker, its call straight into the irqfd. Queues that the kernel does not know, as a
 * network device's control queue, stay with the device's own datapath.
 */

import type { Activation, Datapath, DatapathEvents } from '../datapath/datapath.ts';
import { InternalError } from '../host/errors.ts';
import { Eventfd, signalEventfd } from '../host/fd.ts';
import { LOOP_READABLE, LoopWatch } from '../host/main-loop.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import type { VringState } from '../virtio/queue/virtqueue.ts';
import { KERNEL_FEATURES, type VhostUnit } from './vhost-unit.ts';

/** Ends what one activation set up. */
interface Run {
  readonly memory: GuestMemory;
  readonly units: readonly VhostUnit[];
}

/** On the main thread: it only sets up and tears down. */
export class VhostDatapath implements Datapath {
  readonly withheld: bigint;
  readonly #units: readonly VhostUnit[];
  readonly #rest: Datapath;
  readonly #events: DatapathEvents;
  /** The kernel signals it when a driver breaks a rule. */
  readonly #error = new Eventfd();
  readonly #watch: LoopWatch;
  #run: Run | undefined;

  /**
   * @param units at least one; owned from here on
   * @param rest serves the other queues; stays its owner's
   */
  constructor(units: readonly VhostUnit[], rest: Datapath, events: DatapathEvents) {
    this.#units = units;
    this.#rest = rest;
    this.#events = events;
    const served = units.reduce((all, { vhost }) => all & vhost.features, KERNEL_FEATURES);
    this.withheld = rest.withheld | (KERNEL_FEATURES & ~served);
    this.#watch = new LoopWatch(this.#error.fd, LOOP_READABLE, () => {
      if (this.#error.drain() && this.#run !== undefined) {
        this.#events.broken('the kernel found a ring or a buffer that breaks the rules (vhost)');
      }
    });
  }

  async start(activation: Activation): Promise<void> {
    if (this.#run !== undefined) throw new InternalError('a datapath was started twice');
    const { queues } = activation;
    const enabled = new Set(queues.map(({ index }) => index));
    const units = this.#units.filter((unit) => unit.queues.every((index) => enabled.has(index)));
    const taken = new Set(units.flatMap((unit) => unit.queues));
    await this.#rest.start({
      ...activation,
      queues: queues.filter(({ index }) => !taken.has(index)),
    });
    this.#error.drain();
    this.#run = { memory: new GuestMemory(activation.memory), units };
    try {
      for (const unit of units) this.#setUp(unit, activation, this.#run.memory);
      for (const unit of units) unit.run();
      // The kernel looks at a ring when it is kicked; the driver may have done so before.
      for (const { index, kickFd } of queues) if (taken.has(index)) signalEventfd(kickFd);
    } catch (error) {
      await this.stop();
      throw error;
    }
  }

  #setUp(unit: VhostUnit, { queues, features }: Activation, memory: GuestMemory): void {
    unit.vhost.configure(memory, features & KERNEL_FEATURES);
    const configs = unit.queues.flatMap((index) => queues.filter((queue) => queue.index === index));
    for (const [ring, config] of configs.entries()) {
      unit.vhost.setUpRing(ring, config, features, this.#error.fd);
    }
  }

  async stop(): Promise<ReadonlyMap<number, VringState>> {
    const run = this.#run;
    if (run === undefined) return new Map();
    this.#run = undefined;
    const states = new Map<number, VringState>();
    try {
      for (const unit of run.units) {
        unit.halt();
        for (const ring of unit.queues.keys()) {
          const stopped = unit.vhost.takeBack(ring);
          if (stopped !== undefined) states.set(...stopped);
        }
      }
    } finally {
      run.memory.detach();
      for (const [index, state] of await this.#rest.stop()) states.set(index, state);
    }
    return states;
  }

  /** Of the queues that the kernel does not serve. */
  async states(): Promise<ReadonlyMap<number, VringState>> {
    return (await this.#rest.states?.()) ?? new Map();
  }

  post(message: unknown, key?: string): void {
    this.#rest.post(message, key);
  }

  /** Leaves the other datapath to its owner. */
  async close(): Promise<void> {
    try {
      await this.stop();
    } finally {
      this.#watch.close();
      this.#error.close();
      for (const unit of this.#units) unit[Symbol.dispose]();
    }
  }
}
