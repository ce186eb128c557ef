/** Serves queues in a thread of their own, which blocks in epoll_wait: for hot devices. */
import { Worker } from 'node:worker_threads';
import {
  describeError,
  InternalError,
  NodeVmmError,
  PeerError,
  UsageError,
} from '../host/errors.ts';
import { Eventfd } from '../host/fd.ts';
import { onProcessExit } from '../host/threads.ts';
import type { VringState } from '../virtio/queue/virtqueue.ts';
import type { Activation, Datapath, DatapathEvents } from './datapath.ts';
import {
  type CarriedError,
  type FromQueueWorker,
  LatestMessages,
  type QueueWorkerData,
  STEER_MESSAGE,
  STEER_QUIT,
  STEER_TID,
  STEER_WORDS,
  type ToQueueWorker,
} from './queue-worker-protocol.ts';

/** The data half that a queue worker runs. */
export interface QueueWorkerSpec {
  /** The device's name. */
  readonly name: string;
  /** URL of the module whose `createHandler(options)` makes the data half. */
  readonly module: string;
  /** Cloneable. */
  readonly options: unknown;
}

type States = ReadonlyMap<number, VringState>;

interface Pending {
  resolve(states: States): void;
  reject(error: Error): void;
}

/**
 * The thread starts with the object, so that it is ready before the driver is; it does not keep
 * the process alive. One that crashed is replaced by the next `start`.
 */
export class QueueWorkerDatapath implements Datapath {
  readonly withheld = 0n;
  readonly #spec: QueueWorkerSpec;
  readonly #events: DatapathEvents;
  #thread: QueueThread | null;
  #started = false;
  /** Started since the last reset. */
  #remembers = false;

  constructor(spec: QueueWorkerSpec, events: DatapathEvents) {
    this.#spec = spec;
    this.#events = events;
    this.#thread = this.#spawn();
  }

  get threadId(): number {
    return this.#thread?.id ?? 0;
  }

  async ready(): Promise<void> {
    await this.#thread?.request((id) => ({ op: 'states', id }));
  }

  async start(activation: Activation): Promise<void> {
    if (this.#started) throw new InternalError('a datapath was started twice');
    this.#thread ??= this.#spawn();
    this.#started = true;
    this.#remembers = true;
    try {
      await this.#thread.request((id) => ({ op: 'start', id, activation }));
    } catch (error) {
      this.#started = false;
      throw error;
    }
  }

  async stop(continuing: readonly number[] = []): Promise<States> {
    if (!this.#started) return new Map();
    this.#started = false;
    const thread = this.#thread;
    try {
      return (await thread?.request((id) => ({ op: 'stop', id, continuing }))) ?? new Map();
    } catch (error) {
      // A crashed thread takes the states with it.
      if (this.#thread !== thread) return new Map();
      throw error;
    }
  }

  async reset(): Promise<void> {
    const thread = this.#thread;
    if (!this.#remembers) return;
    this.#remembers = false;
    try {
      await thread?.request((id) => ({ op: 'reset', id }));
    } catch (error) {
      // A crashed thread takes what it kept with it.
      if (this.#thread === thread) throw error;
    }
  }

  async states(): Promise<States> {
    if (!this.#started) return new Map();
    return (await this.#thread?.request((id) => ({ op: 'states', id }))) ?? new Map();
  }

  post(message: unknown, key = ''): void {
    if (this.#started) this.#thread?.post(message, key);
  }

  async close(): Promise<void> {
    this.#started = false;
    const thread = this.#thread;
    this.#thread = null;
    await thread?.close();
  }

  #spawn(): QueueThread {
    const thread: QueueThread = new QueueThread(this.#spec, this.#events, (reason) => {
      if (this.#thread !== thread) return;
      this.#thread = null;
      this.#events.log(reason);
      if (this.#started) this.#events.broken(reason);
    });
    return thread;
  }
}

/** One worker thread, from its start to its end. */
class QueueThread {
  readonly #worker: Worker;
  readonly #control = new Eventfd();
  readonly #steer: Int32Array;
  readonly #events: DatapathEvents;
  readonly #pending = new Map<number, Pending>();
  readonly #outbox = new LatestMessages((messages) => this.send({ op: 'post', messages }));
  readonly #ended: Promise<void>;
  readonly #forget: () => void;
  #nextId = 0;
  #closing = false;
  #error: unknown;

  /** @param crashed called when the thread ends unasked */
  constructor(spec: QueueWorkerSpec, events: DatapathEvents, crashed: (reason: string) => void) {
    this.#events = events;
    const steer = new Int32Array(new SharedArrayBuffer(4 * STEER_WORDS));
    this.#steer = steer;
    const data: QueueWorkerData = { ...spec, controlFd: this.#control.fd, steer };
    this.#worker = new Worker(new URL('./queue-worker-main.js', import.meta.url), {
      name: spec.name,
      workerData: data,
      // Loaders of the main thread would multiply the start-up time.
      execArgv: [],
    });
    this.#forget = onProcessExit(() => {
      Atomics.store(steer, STEER_QUIT, 1);
      Atomics.store(steer, STEER_MESSAGE, 1);
      this.#control.signal();
    });
    this.#worker.unref();
    this.#worker.on('message', (message: FromQueueWorker) => this.#message(message));
    this.#worker.on('error', (error) => {
      this.#error = error;
    });
    this.#ended = new Promise((resolve) => {
      this.#worker.on('exit', () => {
        this.#forget();
        this.#control.close();
        const why = this.#error === undefined ? '' : `: ${describeError(this.#error)}`;
        const reason = `the queue worker ended unexpectedly${why}`;
        if (!this.#closing) crashed(reason);
        for (const { reject } of this.#pending.values()) reject(new InternalError(reason));
        this.#pending.clear();
        resolve();
      });
    });
  }

  /** 0 until it runs. */
  get id(): number {
    return Atomics.load(this.#steer, STEER_TID);
  }

  /** As `DeviceHost.post`. */
  post(message: unknown, key: string): void {
    this.#outbox.post(message, key);
  }

  send(message: ToQueueWorker): void {
    this.#worker.postMessage(message);
    // In this order: a worker that sees the word finds the message.
    Atomics.store(this.#steer, STEER_MESSAGE, 1);
    this.#control.signal();
  }

  /** Sends a request and waits for its answer, keeping the process alive meanwhile. */
  async request(make: (id: number) => ToQueueWorker): Promise<States> {
    const id = this.#nextId++;
    const answer = new Promise<States>((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
    });
    this.#worker.ref();
    this.#outbox.flush();
    this.send(make(id));
    try {
      return await answer;
    } finally {
      if (this.#pending.size === 0 && !this.#closing) this.#worker.unref();
    }
  }

  async close(): Promise<void> {
    this.#closing = true;
    this.#worker.ref();
    this.send({ op: 'close' });
    await this.#ended;
  }

  #message(message: FromQueueWorker): void {
    switch (message.op) {
      case 'done':
        this.#take(message.id)?.resolve(message.states);
        return;
      case 'failed':
        this.#take(message.id)?.reject(rebuildError(message.error));
        return;
      case 'broken':
        this.#events.broken(message.reason, message.denied);
        return;
      case 'log':
        this.#events.log(message.text);
        return;
      case 'post':
        for (const one of message.messages) this.#events.message(one, '');
        if (!this.#closing) this.send({ op: 'taken' });
        return;
      case 'taken':
        this.#outbox.taken();
        return;
      case 'breach':
        this.#events.breach?.(message.breach);
        return;
    }
  }

  #take(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }
}

function rebuildError(error: CarriedError): Error {
  const { name, code, problem, remedy } = error;
  if (name === 'PeerError') return new PeerError(code, problem, remedy);
  if (name === 'UsageError') return new UsageError(code, problem, remedy);
  if (code !== 'E_INTERNAL') return new NodeVmmError(code, problem, remedy);
  return new InternalError(problem);
}
