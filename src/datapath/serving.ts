/**
 * One activation as it is served in this thread: the queues, the handler, and what happens when
 * either of them fails. The thread around it brings the events.
 */
import { describeError } from '../host/errors.ts';
import { signalEventfd } from '../host/fd.ts';
import { LogLimit } from '../host/untrusted-text.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import type { ActiveQueue, HandlerContext, QueueHandler, Reactor } from '../virtio/device.ts';
import type { Breach } from '../virtio/observe/observation.ts';
import { observe } from '../virtio/observe/observe.ts';
import { createVirtqueue } from '../virtio/queue/create-virtqueue.ts';
import { HeldQueue } from '../virtio/queue/held-queue.ts';
import type { Virtqueue, VringState } from '../virtio/queue/virtqueue.ts';
import type { Activation } from './datapath.ts';

/** What the thread does for a serving. */
export interface ServingHost {
  readonly reactor: Reactor;
  /** As `HandlerContext.isInterrupted`. */
  readonly isInterrupted?: () => boolean;
  /** Kick the queue once more in the loop's next round. */
  kickAgain(queue: number): void;
  /** Nothing is served any more; called once. */
  broken(reason: string): void;
  log(text: string): void;
  post(message: unknown, key: string): void;
  /** A rule was broken, by driver or device; both go on. */
  breach?(breach: Breach): void;
}

class Served implements ActiveQueue {
  readonly virtqueue: Virtqueue;
  /** What a poll saw last. */
  seen = -2;
  readonly #callFd: number;
  readonly #host: ServingHost;

  constructor(virtqueue: Virtqueue, callFd: number, host: ServingHost) {
    this.virtqueue = virtqueue;
    this.#callFd = callFd;
    this.#host = host;
  }

  interrupt(): void {
    if (this.#callFd >= 0) signalEventfd(this.#callFd);
  }

  kickAgain(): void {
    this.#host.kickAgain(this.virtqueue.index);
  }
}

/** Serves an activation from construction until `stop`. */
export class Serving {
  readonly #memory: GuestMemory;
  readonly #queues: (Served | undefined)[] = [];
  readonly #handler: QueueHandler;
  readonly #host: ServingHost;
  readonly #lines: LogLimit;
  #broken = false;

  /** @throws PeerError when the driver put a queue where there is no RAM */
  constructor(handler: QueueHandler, activation: Activation, host: ServingHost) {
    // Whoever watches takes the handler's place: unobserved, a queue is served as if none could.
    this.#handler = observe(handler, activation.observe, {
      features: activation.features,
      queues: activation.queues,
      breach: (breach) => host.breach?.(breach),
    });
    this.#host = host;
    // Here, in the thread that serves: each line to another one is a message.
    this.#lines = new LogLimit((text) => host.log(text));
    this.#memory = new GuestMemory(activation.memory);
    try {
      for (const config of activation.queues) {
        let virtqueue = createVirtqueue(this.#memory, config, activation.features);
        const credits = activation.holds?.get(config.index);
        if (credits !== undefined) virtqueue = new HeldQueue(virtqueue, credits);
        this.#queues[config.index] = new Served(virtqueue, config.callFd, host);
      }
    } catch (error) {
      this.#memory.detach();
      throw error;
    }
    const context: HandlerContext = {
      memory: this.#memory,
      features: activation.features,
      ...(activation.config === undefined ? {} : { config: activation.config }),
      queues: this.#queues,
      reactor: {
        // What is broken must not be woken: nobody would look at a descriptor that stays ready.
        watch: (fd, events, token) => {
          if (!this.#broken || events === 0) host.reactor.watch(fd, events, token);
        },
      },
      ...(host.isInterrupted === undefined ? {} : { isInterrupted: host.isInterrupted }),
      broken: (reason) => this.#break(reason),
      log: (text) => this.#lines.say(text),
      post: (message, key = '') => host.post(message, key),
    };
    try {
      this.#handler.start(context);
      for (const { index } of activation.queues) {
        if (host.isInterrupted?.() === true) host.kickAgain(index);
        else this.kick(index);
      }
    } catch (error) {
      this.failed(error);
    }
  }

  /** HOT. An exception goes to the caller, who hands it to `failed`. */
  kick(queue: number): void {
    if (!this.#broken) this.#handler.kick(queue);
  }

  /**
   * Looks at the queues without having been kicked. HOT.
   * @returns true when a driver had made something available
   */
  poll(): boolean {
    let found = false;
    for (let index = 0; index < this.#queues.length; index++) {
      const served = this.#queues[index];
      if (served === undefined) continue;
      const available = served.virtqueue.peekAvailable?.() ?? -1;
      if (available === served.seen) continue;
      served.seen = available;
      if (available === -1) continue;
      found = true;
      this.kick(index);
    }
    return found;
  }

  /** `poll` is called all the time from now on, and no kick is needed; or no longer. */
  suppressKicks(suppressed: boolean): void {
    for (const served of this.#queues) {
      if (served === undefined) continue;
      served.seen = -2;
      // What came just before has been seen by nobody, and brings no kick.
      if (served.virtqueue.suppressKicks?.(suppressed) === true) served.kickAgain();
    }
  }

  /** HOT. As `kick`. */
  ready(token: number, events: number): void {
    if (!this.#broken) this.#handler.ready(token, events);
  }

  /** As `kick`. */
  message(message: unknown): void {
    if (!this.#broken) this.#handler.message?.(message);
  }

  /**
   * The handler threw: its device is broken, the others go on.
   * @returns false when it was broken already, so that it cannot have been the handler
   */
  failed(error: unknown): boolean {
    if (this.#broken) return false;
    this.#break(`the data half failed: ${describeError(error)}`);
    return true;
  }

  /** Queues are about to be handed over: see `QueueHandler.drain`. */
  drain(queues: readonly number[]): Promise<void> | undefined {
    return this.#broken ? undefined : this.#handler.drain?.(queues);
  }

  /** Ends it. Returns where each queue stands. */
  stop(): Map<number, VringState> {
    try {
      this.#handler.stop();
    } catch (error) {
      this.#host.log(`stopping failed: ${describeError(error)}`);
    }
    this.#lines.flush();
    const states = this.states();
    this.#memory.detach();
    return states;
  }

  /** Where each queue stands. */
  states(): Map<number, VringState> {
    const states = new Map<number, VringState>();
    for (const served of this.#queues) {
      if (served !== undefined) states.set(served.virtqueue.index, served.virtqueue.state());
    }
    return states;
  }

  #break(reason: string): void {
    if (this.#broken) return;
    this.#broken = true;
    this.#host.broken(reason);
  }
}
