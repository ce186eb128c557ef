/** Serves queues on the main thread: for slow devices, and for tests. */
import { drainEventfd } from '../host/fd.ts';
import { LoopWatch } from '../host/main-loop.ts';
import { type QueueHandler, READABLE } from '../virtio/device.ts';
import type { VringState } from '../virtio/queue/virtqueue.ts';
import type { Activation, Datapath, DatapathEvents } from './datapath.ts';
import { HandlerRunner } from './handler-runner.ts';
import { PollWindow } from './poll-window.ts';

/**
 * Kicks arrive over the event loop; they do not keep the process alive. While the device polls, the loop does not
 * sleep: each of its turns looks at the queues once.
 */
export class InProcessDatapath implements Datapath {
  readonly withheld = 0n;
  readonly #runner: HandlerRunner;
  readonly #kicks: LoopWatch[] = [];
  /** What the handler watches, by descriptor. */
  readonly #watches = new Map<number, { watch: LoopWatch; token: number }>();
  /** Queues to kick again. */
  readonly #again = new Set<number>();
  readonly #window = new PollWindow();
  /** The loop's next turn. */
  #turn: NodeJS.Immediate | undefined;

  /** @param createHandler makes the data half, once */
  constructor(createHandler: () => QueueHandler, events: DatapathEvents) {
    this.#runner = new HandlerRunner(createHandler, {
      reactor: { watch: (fd, ready, token) => this.#watch(fd, ready, token) },
      kickAgain: (queue) => this.#kickAgain(queue),
      broken: (reason, denied) => {
        for (const { watch } of this.#watches.values()) watch.set(0);
        for (const watch of this.#kicks) watch.set(0);
        this.#window.close();
        events.broken(reason, denied);
      },
      log: (text) => events.log(text),
      post: (message, key) => events.message(message, key),
      breach: (breach) => events.breach?.(breach),
    });
  }

  async start(activation: Activation): Promise<void> {
    this.#runner.start(activation);
    try {
      for (const { index, kickFd } of activation.queues) {
        const kicked = (): void => {
          drainEventfd(kickFd);
          this.#guard(() => this.#kicked(index));
        };
        this.#kicks.push(new LoopWatch(kickFd, READABLE, kicked));
      }
      this.#window.open(activation.poll ?? 'off');
      if (this.#window.polls) this.#poll();
    } catch (error) {
      this.#stop();
      throw error;
    }
  }

  async stop(continuing: readonly number[] = []): Promise<ReadonlyMap<number, VringState>> {
    if (continuing.length > 0) await this.#runner.drain(continuing);
    return this.#stop();
  }

  async reset(): Promise<void> {
    this.#runner.reset();
  }

  async states(): Promise<ReadonlyMap<number, VringState>> {
    return this.#runner.states();
  }

  post(message: unknown): void {
    this.#guard(() => this.#runner.message(message));
  }

  async close(): Promise<void> {
    this.#stop();
  }

  #stop(): Map<number, VringState> {
    this.#window.close();
    clearImmediate(this.#turn);
    const states = this.#runner.stop();
    for (const { watch } of this.#watches.values()) watch.close();
    for (const watch of this.#kicks) watch.close();
    this.#watches.clear();
    this.#kicks.length = 0;
    this.#again.clear();
    return states;
  }

  /** The handler's watches; a change of token needs no change of the watch. */
  #watch(fd: number, events: number, token: number): void {
    const known = this.#watches.get(fd);
    if (events === 0) {
      known?.watch.close();
      this.#watches.delete(fd);
    } else if (known !== undefined) {
      known.token = token;
      known.watch.set(events);
    } else {
      const watch = new LoopWatch(fd, events, (ready) =>
        this.#guard(() => this.#runner.ready(entry.token, ready)),
      );
      const entry = { watch, token };
      this.#watches.set(fd, entry);
    }
  }

  #kicked(queue: number): void {
    const { adapts, polls } = this.#window;
    if (adapts && !polls) this.#window.woke(performance.now());
    this.#runner.kick(queue);
    if (adapts && this.#window.worked(performance.now())) this.#poll();
  }

  #poll(): void {
    this.#runner.suppressKicks(true);
    this.#turn = setImmediate(this.#look);
  }

  readonly #look = (): void => {
    this.#guard(() => {
      const found = this.#runner.poll();
      if (this.#window.adapts) {
        const now = performance.now();
        if (found) this.#window.worked(now);
        else if (this.#window.idle(now)) this.#runner.suppressKicks(false);
      }
    });
    if (this.#window.polls) this.#turn = setImmediate(this.#look);
  };

  #kickAgain(queue: number): void {
    // One at a time: a driver that notifies a never-empty queue would add one each time.
    if (this.#again.has(queue)) return;
    this.#again.add(queue);
    setImmediate(() => {
      if (this.#again.delete(queue)) this.#guard(() => this.#runner.kick(queue));
    });
  }

  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      this.#runner.failed(error);
    }
  }
}
