/**
 * The life of a device's data half in the thread that serves it: made at the first start, started and
 * stopped as often as the driver or the owner wants, reset when the driver resets the device, and
 * replaced only after it threw. The surrounding thread delivers the events.
 */
import { describeError, InternalError } from '../host/errors.ts';
import { signalEventfd } from '../host/fd.ts';
import { LogLimit } from '../host/untrusted-text.ts';
import { type DeniedAccess, GuestMemory } from '../memory/guest-memory.ts';
import { ActiveQueue, type QueueHost } from '../virtio/active-queue.ts';
import type { HandlerContext, QueueHandler, Reactor } from '../virtio/device.ts';
import type { Breach } from '../virtio/observe/observation.ts';
import { observe } from '../virtio/observe/observe.ts';
import { createVirtqueue } from '../virtio/queue/create-virtqueue.ts';
import { HeldQueue } from '../virtio/queue/held-queue.ts';
import type { Virtqueue, VringState } from '../virtio/queue/virtqueue.ts';
import type { Activation } from './datapath.ts';

/** What the thread does for the data half. */
export interface RunnerHost {
  readonly reactor: Reactor;
  /** As `HandlerContext.isInterrupted`. */
  readonly isInterrupted?: () => boolean;
  /** Kick the queue again in the loop's next round. */
  kickAgain(queue: number): void;
  /** Nothing is served before the next start; called once. @param denied as of `DatapathEvents` */
  broken(reason: string, denied?: DeniedAccess): void;
  log(text: string): void;
  post(message: unknown, key: string): void;
  /** The driver or the device broke a rule; both continue. */
  breach?(breach: Breach): void;
}

/** Never a value of `peekAvailable`. */
const NOT_PEEKED = -2;

/** From one start to its stop. */
interface Run {
  /** The data half, or its observer. */
  readonly handler: QueueHandler;
  readonly memory: GuestMemory;
  readonly queues: readonly (ActiveQueue | undefined)[];
  /** By queue: what the last poll saw. */
  readonly seen: number[];
  readonly lines: LogLimit;
  broken: boolean;
}

/** Runs one data half. */
export class HandlerRunner {
  readonly #create: () => QueueHandler;
  readonly #host: RunnerHost;
  /** Kept from start to start; undefined before the first one, and after it threw. */
  #handler: QueueHandler | undefined;
  #run: Run | undefined;

  constructor(create: () => QueueHandler, host: RunnerHost) {
    this.#create = create;
    this.#host = host;
  }

  /**
   * Serves the queues from here on.
   * @throws PeerError when the driver put a queue where there is no RAM, and whatever making the data
   *   half throws
   */
  start(activation: Activation): void {
    if (this.#run !== undefined) throw new InternalError('a data half was started twice');
    const { features, config, queues, observe: observation } = activation;
    const host = this.#host;
    this.#handler ??= this.#create();
    const own = this.#handler;
    const memory = new GuestMemory(activation.memory);
    let run: Run;
    try {
      // An observer stands in for the data half: without one, observation costs nothing.
      const breach = (one: Breach): void => host.breach?.(one);
      run = {
        handler: observe(own, observation, { features, queues, breach }),
        memory,
        queues: this.#openQueues(activation, memory),
        seen: [],
        // Limited here, in the serving thread: each line is a message to another one.
        lines: new LogLimit((text) => host.log(text)),
        broken: false,
      };
    } catch (error) {
      memory.detach();
      throw error;
    }
    this.#run = run;
    const context: HandlerContext = {
      memory,
      features,
      ...(config === undefined ? {} : { config }),
      queues: run.queues,
      reactor: {
        // A broken device must not be woken: it would not read a descriptor that stays ready.
        watch: (fd, events, token) => {
          if (!run.broken || events === 0) host.reactor.watch(fd, events, token);
        },
      },
      ...(host.isInterrupted === undefined ? {} : { isInterrupted: host.isInterrupted }),
      broken: (reason) => this.#break(reason),
      log: (text) => run.lines.say(text),
      post: (message, key = '') => host.post(message, key),
    };
    try {
      run.handler.start(context);
      for (const { index } of queues) {
        if (host.isInterrupted?.() === true) host.kickAgain(index);
        else this.kick(index);
      }
    } catch (error) {
      this.failed(error);
    }
  }

  /** HOT. An exception goes to the caller, which passes it to `failed`. */
  kick(queue: number): void {
    const run = this.#run;
    if (run !== undefined && !run.broken) run.handler.kick(queue);
  }

  /** HOT. As `kick`. */
  ready(token: number, events: number): void {
    const run = this.#run;
    if (run !== undefined && !run.broken) run.handler.ready?.(token, events);
  }

  /** As `kick`. */
  message(message: unknown): void {
    const run = this.#run;
    if (run !== undefined && !run.broken) run.handler.message?.(message);
  }

  /**
   * Looks at the queues without having been kicked. HOT.
   * @returns true when a driver had made something available
   */
  poll(): boolean {
    const run = this.#run;
    if (run === undefined) return false;
    const { queues, seen } = run;
    let found = false;
    for (let index = 0; index < queues.length; index++) {
      const queue = queues[index];
      if (queue === undefined) continue;
      const available = queue.virtqueue.peekAvailable?.() ?? -1;
      if (available === seen[index]) continue;
      seen[index] = available;
      if (available === -1) continue;
      found = true;
      this.kick(index);
    }
    return found;
  }

  /** Suppresses kicks while `poll` is called all the time, or asks for them again. */
  suppressKicks(suppressed: boolean): void {
    const run = this.#run;
    if (run === undefined) return;
    for (const queue of run.queues) {
      if (queue === undefined) continue;
      run.seen[queue.virtqueue.index] = NOT_PEEKED;
      // What came just before was not seen, and brings no kick.
      if (queue.virtqueue.suppressKicks?.(suppressed) === true) queue.kickAgain();
    }
  }

  /**
   * The data half threw: its device is broken, the others continue.
   * @returns false when it was broken already, so that the data half cannot have thrown
   */
  failed(error: unknown): boolean {
    if (this.#run === undefined || this.#run.broken) return false;
    // Its state is unknown: the next start makes another one.
    this.#handler = undefined;
    this.#break(`the data half failed: ${describeError(error)}`);
    return true;
  }

  /** Queues are about to be handed over; see `QueueHandler.drain`. */
  async drain(queues: readonly number[]): Promise<void> {
    if (this.#run?.broken === false) await this.#run.handler.drain?.(queues);
  }

  /** Stops serving. Returns the state of each queue. */
  stop(): Map<number, VringState> {
    const run = this.#run;
    if (run === undefined) return new Map();
    try {
      run.handler.stop();
    } catch (error) {
      this.#handler = undefined;
      this.#host.log(`stopping failed: ${describeError(error)}`);
    }
    run.lines.flush();
    const states = this.states();
    this.#run = undefined;
    run.memory.detach();
    return states;
  }

  /** The driver reset the device. Not between `start` and `stop`. */
  reset(): void {
    try {
      this.#handler?.reset?.();
    } catch (error) {
      this.#handler = undefined;
      this.#host.log(`resetting failed: ${describeError(error)}`);
    }
  }

  /** The state of each queue. */
  states(): Map<number, VringState> {
    const states = new Map<number, VringState>();
    for (const queue of this.#run?.queues ?? []) {
      if (queue !== undefined) states.set(queue.virtqueue.index, queue.virtqueue.state());
    }
    return states;
  }

  #openQueues(activation: Activation, memory: GuestMemory): (ActiveQueue | undefined)[] {
    const host = this.#host;
    const callFds: number[] = [];
    const around: QueueHost = {
      memory,
      interrupt: (queue) => {
        const callFd = callFds[queue] ?? -1;
        if (callFd >= 0) signalEventfd(callFd);
      },
      kickAgain: (queue) => host.kickAgain(queue),
      ...(host.isInterrupted === undefined ? {} : { isInterrupted: host.isInterrupted }),
      broken: (reason) => this.#break(reason),
    };
    const queues: (ActiveQueue | undefined)[] = [];
    for (const config of activation.queues) {
      let virtqueue: Virtqueue = createVirtqueue(memory, config, activation.features);
      const credits = activation.holds?.get(config.index);
      if (credits !== undefined) virtqueue = new HeldQueue(virtqueue, credits);
      callFds[config.index] = config.callFd;
      queues[config.index] = new ActiveQueue(virtqueue, around);
    }
    return queues;
  }

  #break(reason: string): void {
    const run = this.#run;
    if (run === undefined || run.broken) return;
    run.broken = true;
    this.#host.broken(reason, run.memory.denied);
  }
}
