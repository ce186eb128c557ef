/** Serves queues on the main thread: for slow devices, and for tests. */

import { InternalError } from '../host/errors.ts';
import { drainEventfd } from '../host/fd.ts';
import { LoopWatch } from '../host/main-loop.ts';
import { type QueueHandler, READABLE } from '../virtio/device.ts';
import type { Breach } from '../virtio/observe/observation.ts';
import type { VringState } from '../virtio/queue/virtqueue.ts';
import type { Activation, Datapath, DatapathEvents } from './datapath.ts';
import { Serving, type ServingHost } from './serving.ts';

/** Kicks arrive over the event loop; they do not keep the process alive. */
export class InProcessDatapath implements Datapath {
  readonly withheld = 0n;
  readonly #createHandler: () => QueueHandler;
  readonly #events: DatapathEvents;
  #run: Run | null = null;

  /** @param createHandler makes the data half, anew for each start */
  constructor(createHandler: () => QueueHandler, events: DatapathEvents) {
    this.#createHandler = createHandler;
    this.#events = events;
  }

  async start(activation: Activation): Promise<void> {
    if (this.#run !== null) throw new InternalError('a datapath was started twice');
    const run = new Run(this.#events);
    run.start(this.#createHandler(), activation);
    this.#run = run;
  }

  async stop(continuing: readonly number[] = []): Promise<ReadonlyMap<number, VringState>> {
    if (continuing.length > 0) await this.#run?.drain(continuing);
    const states = this.#run?.stop();
    this.#run = null;
    return states ?? new Map();
  }

  async states(): Promise<ReadonlyMap<number, VringState>> {
    return this.#run?.states() ?? new Map();
  }

  post(message: unknown): void {
    this.#run?.message(message);
  }

  async close(): Promise<void> {
    await this.stop();
  }
}

/** From one start to its stop. */
class Run implements ServingHost {
  readonly #events: DatapathEvents;
  readonly #kicks: LoopWatch[] = [];
  readonly #watches = new Map<number, { watch: LoopWatch; token: number }>();
  /** Queues that want another kick. */
  readonly #again = new Set<number>();
  #serving: Serving | null = null;

  constructor(events: DatapathEvents) {
    this.#events = events;
  }

  /** The handler's watches; a change of token needs no change of the watch. */
  readonly reactor = {
    watch: (fd: number, events: number, token: number): void => {
      const known = this.#watches.get(fd);
      if (known !== undefined && events !== 0) {
        known.token = token;
        known.watch.set(events);
        return;
      }
      if (events === 0) {
        known?.watch.close();
        this.#watches.delete(fd);
        return;
      }
      const watch = new LoopWatch(fd, events, (ready) =>
        this.#guard((serving) => serving.ready(entry.token, ready)),
      );
      const entry = { watch, token };
      this.#watches.set(fd, entry);
    },
  };

  start(handler: QueueHandler, activation: Activation): void {
    this.#serving = new Serving(handler, activation, this);
    try {
      for (const { index, kickFd } of activation.queues) {
        const kicked = (): void => {
          drainEventfd(kickFd);
          this.#guard((serving) => serving.kick(index));
        };
        this.#kicks.push(new LoopWatch(kickFd, READABLE, kicked));
      }
    } catch (error) {
      this.stop();
      throw error;
    }
  }

  stop(): Map<number, VringState> {
    const states = this.#serving?.stop() ?? new Map<number, VringState>();
    this.#serving = null;
    this.#unwatch();
    return states;
  }

  states(): Map<number, VringState> {
    return this.#serving?.states() ?? new Map();
  }

  async drain(queues: readonly number[]): Promise<void> {
    await this.#serving?.drain(queues);
  }

  message(message: unknown): void {
    this.#guard((serving) => serving.message(message));
  }

  kickAgain(queue: number): void {
    // One at a time: a driver that notifies a queue which is never empty would add one each time.
    if (this.#again.has(queue)) return;
    this.#again.add(queue);
    setImmediate(() => {
      this.#again.delete(queue);
      this.#guard((serving) => serving.kick(queue));
    });
  }

  broken(reason: string): void {
    for (const { watch } of this.#watches.values()) watch.set(0);
    for (const watch of this.#kicks) watch.set(0);
    this.#events.broken(reason);
  }

  log(text: string): void {
    this.#events.log(text);
  }

  post(message: unknown, key: string): void {
    this.#events.message(message, key);
  }

  breach(breach: Breach): void {
    this.#events.breach?.(breach);
  }

  #guard(work: (serving: Serving) => void): void {
    const serving = this.#serving;
    if (serving === null) return;
    try {
      work(serving);
    } catch (error) {
      serving.failed(error);
    }
  }

  #unwatch(): void {
    for (const { watch } of this.#watches.values()) watch.close();
    for (const watch of this.#kicks) watch.close();
    this.#watches.clear();
    this.#kicks.length = 0;
  }
}
