/** A device's queues from DRIVER_OK to the reset: what its driver set up, and where each stands. */
import type { Activation } from '../../datapath/datapath.ts';
import type { VringState } from '../../virtio/queue/virtqueue.ts';
import type { DatapathChoice } from './datapath-choice.ts';
import { QueueHolds } from './queue-holds.ts';

/** Which queues will be served on from where they stand; the driver gives up the others. */
export type GoesOn = 'all' | 'none' | { readonly but: readonly number[] };

/** They are served or not, by whichever datapath is chosen at the time. */
export class ActiveQueues {
  readonly holds = new QueueHolds();
  readonly #datapaths: DatapathChoice;
  #activation: Activation | undefined;
  #states: ReadonlyMap<number, VringState> = new Map();
  #served = false;

  constructor(datapaths: DatapathChoice) {
    this.#datapaths = datapaths;
  }

  /** What the driver set up; undefined before DRIVER_OK. */
  get activation(): Activation | undefined {
    return this.#activation;
  }

  get isServed(): boolean {
    return this.#served;
  }

  /** Where each queue stands, as far as whoever serves it can tell. */
  async states(): Promise<ReadonlyMap<number, VringState>> {
    if (!this.#served) return this.#states;
    return (await this.#datapaths.current.states?.()) ?? new Map();
  }

  /** The driver has set them up, or changed something of it. They are not served. */
  setUp(activation: Activation): void {
    this.#activation = activation;
  }

  /** The driver reset a queue: it starts anew. It is not served. */
  forget(queue: number): void {
    this.#states = new Map([...this.#states].filter(([index]) => index !== queue));
  }

  /** The driver reset the device. They are not served. */
  clear(): void {
    this.#activation = undefined;
    this.#states = new Map();
  }

  /**
   * Has them served, each from where it stands.
   * @param config the configuration space
   * @throws HostError when they cannot be served
   */
  async start(config: Uint8Array): Promise<void> {
    if (this.#activation === undefined || this.#served) return;
    const queues = this.#activation.queues.map((queue) => {
      const state = this.#states.get(queue.index);
      return state === undefined ? queue : { ...queue, state };
    });
    const activation = this.holds.start({ ...this.#activation, config, queues });
    await this.#datapaths.current.start(activation);
    this.#served = true;
  }

  /**
   * Has them served no longer, and remembers where each stands.
   * @throws HostError when that cannot be known: each starts anew then
   */
  async stop(goesOn: GoesOn): Promise<void> {
    if (!this.#served) return;
    this.#served = false;
    const all = this.#activation?.queues.map(({ index }) => index) ?? [];
    const but = typeof goesOn === 'string' ? [] : goesOn.but;
    const queues = goesOn === 'none' ? [] : all.filter((index) => !but.includes(index));
    try {
      this.#states = await this.#datapaths.current.stop(queues);
    } catch (error) {
      this.#states = new Map();
      throw error;
    }
    this.holds.stop(this.#states);
  }
}
