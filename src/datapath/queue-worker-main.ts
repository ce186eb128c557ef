/**
 * The thread of a queue worker: blocked in epoll_wait on kick eventfds, on the descriptors that
 * the handler watches, and on a control eventfd; or looking at the queues in between. It does not return to its event loop before it
 * ends; messages are fetched when the control eventfd is signaled.
 *
 * HOT: `#serve`. No allocation for a kick or a ready descriptor.
 */
import {
  type MessagePort,
  parentPort,
  receiveMessageOnPort,
  workerData,
} from 'node:worker_threads';
import { EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, Epoll } from '../host/epoll.ts';
import { drainEventfd } from '../host/fd.ts';
import { gettid } from '../host/syscall.ts';
import { nameThread, releaseCallMemoryAtExit } from '../host/threads.ts';
import type { DeniedAccess } from '../memory/guest-memory.ts';
import { type QueueHandler, READABLE, WRITABLE } from '../virtio/device.ts';
import type { Breach } from '../virtio/observe/observation.ts';
import type { VringState } from '../virtio/queue/virtqueue.ts';
import type { Activation } from './datapath.ts';
import { HandlerRunner, type RunnerHost } from './handler-runner.ts';
import { LoopWorker } from './loop-worker.ts';
import { PollWindow } from './poll-window.ts';
import {
  carriedError,
  type FromQueueWorker,
  LatestMessages,
  type QueueWorkerData,
  STEER_MESSAGE,
  STEER_QUIT,
  STEER_TID,
  type ToQueueWorker,
} from './queue-worker-protocol.ts';

/** Tokens: lower ones are the handler's own, the others are the queues' kicks. */
const KICK_TOKENS = 0x1_0000;
const CONTROL_TOKEN = 0x2_0000;
/** Events that one epoll_wait returns. */
const BATCH = 64;
/** Looks at the queues between two at the descriptors, which cost a system call. */
const LOOKS = 32;

class QueueWorker implements RunnerHost {
  readonly #data: QueueWorkerData;
  readonly #port: MessagePort;
  readonly #runner: HandlerRunner;
  readonly #epoll = new Epoll(BATCH);
  /** Descriptors that the handler watches. */
  readonly #watched = new Set<number>();
  /** Kick eventfds of the queues that are served. */
  #kicks: readonly number[] = [];
  #open = true;
  /** Queues to kick again: a list of `#againCount` numbers; and the list of the last round. */
  #again: number[] = [];
  #kicked: number[] = [];
  #againCount = 0;
  /** By queue: whether it is listed. */
  readonly #wanted: boolean[] = [];
  readonly #outbox = new LatestMessages((messages) => this.#send({ op: 'post', messages }));
  readonly #window = new PollWindow();

  constructor(
    data: QueueWorkerData,
    port: MessagePort,
    createHandler: (options: unknown) => QueueHandler,
  ) {
    this.#data = data;
    this.#port = port;
    this.#runner = new HandlerRunner(() => createHandler(data.options), this);
    this.#epoll.add(data.controlFd, EPOLLIN, CONTROL_TOKEN);
  }

  /** The handler's watches. */
  readonly reactor = {
    watch: (fd: number, events: number, token: number): void => {
      const known = this.#watched.has(fd);
      if (events === 0) {
        if (known) this.#epoll.remove(fd);
        this.#watched.delete(fd);
      } else if (known) {
        this.#epoll.modify(fd, events, token);
      } else {
        this.#epoll.add(fd, events, token);
        this.#watched.add(fd);
      }
    },
  };

  /** Returns when the worker is closed. */
  run(): void {
    while (this.#open) {
      // Outside the serving loop, so that exceptions cost nothing until thrown.
      try {
        this.#serve();
      } catch (error) {
        if (!this.#runner.failed(error)) throw error;
      }
    }
    this.#stop();
    this.#epoll.close();
    this.#port.close();
  }

  #serve(): void {
    const window = this.#window;
    while (this.#open) {
      if (window.polls) this.#look();
      const waits = this.#againCount === 0 && !window.polls;
      const count = this.#epoll.wait(waits ? -1 : 0);
      const woken = waits && window.adapts ? performance.now() : 0;
      let worked = this.#againCount > 0;
      let control = false;
      for (let i = 0; i < count; i++) {
        const token = this.#epoll.token(i);
        if (token !== CONTROL_TOKEN) worked = true;
        if (token < KICK_TOKENS) {
          const events = this.#epoll.events(i);
          // A hang-up or an error: both count as ready, and the handler's system call reports which.
          const failed = (events & (EPOLLERR | EPOLLHUP)) !== 0;
          this.#runner.ready(token, failed ? READABLE | WRITABLE : events);
        } else if (token < CONTROL_TOKEN) {
          if (this.isInterrupted()) this.kickAgain(token - KICK_TOKENS);
          else this.#runner.kick(token - KICK_TOKENS);
        } else {
          control = true;
        }
      }
      if (this.#againCount > 0) this.#kickAgain();
      if (worked && window.adapts) {
        if (waits) window.woke(woken);
        if (window.worked(performance.now())) this.#runner.suppressKicks(true);
      }
      // Last: a stop makes the rest of the batch stale.
      if (control) this.#control();
    }
  }

  /** Whether there is a message: the rest of the batch of events comes first. */
  readonly isInterrupted = (): boolean => this.#data.steer[STEER_MESSAGE] !== 0;

  /** Looks at the queues for a turn, and ends polling when that has been in vain for long enough. */
  #look(): void {
    let found = false;
    for (let look = 0; look < LOOKS; look++) {
      if (this.isInterrupted()) break;
      if (this.#runner.poll()) found = true;
      if (this.#againCount > 0) break;
    }
    if (!this.#window.adapts) return;
    if (found || this.#againCount > 0) this.#window.worked(performance.now());
    else if (this.#window.idle(performance.now())) this.#runner.suppressKicks(false);
  }

  #kickAgain(): void {
    const count = this.#againCount;
    const list = this.#again;
    // Requests made meanwhile, for any queue, are for the next round.
    this.#again = this.#kicked;
    this.#kicked = list;
    this.#againCount = 0;
    for (let i = 0; i < count; i++) {
      const queue = list[i] as number;
      this.#wanted[queue] = false;
      if (this.isInterrupted()) this.kickAgain(queue);
      else this.#runner.kick(queue);
    }
  }

  kickAgain(queue: number): void {
    // Once: a driver that notifies a never-empty queue would add one each time.
    if (this.#wanted[queue] === true) return;
    this.#wanted[queue] = true;
    this.#again[this.#againCount++] = queue;
  }

  #control(): void {
    drainEventfd(this.#data.controlFd);
    // Cleared before the messages are read: later ones set it again.
    Atomics.store(this.#data.steer, STEER_MESSAGE, 0);
    if (Atomics.load(this.#data.steer, STEER_QUIT) !== 0) this.#open = false;
    while (this.#open) {
      const received = receiveMessageOnPort(this.#port);
      if (received === undefined) return;
      this.#message(received.message as ToQueueWorker);
    }
  }

  #message(message: ToQueueWorker): void {
    switch (message.op) {
      case 'start':
        this.#answer(message.id, () => this.#start(message.activation));
        return;
      case 'stop':
        this.#answer(message.id, () => {
          // There is no event loop: what must be waited for is not served here.
          if (message.continuing.length > 0) void this.#runner.drain(message.continuing);
          return this.#stop();
        });
        return;
      case 'reset':
        this.#answer(message.id, () => this.#reset());
        return;
      case 'states':
        this.#answer(message.id, () => this.#runner.states());
        return;
      case 'post':
        for (const one of message.messages) this.#runner.message(one);
        this.#send({ op: 'taken' });
        return;
      case 'taken':
        this.#outbox.taken();
        return;
      case 'close':
        this.#open = false;
        return;
    }
  }

  #answer(id: number, work: () => Map<number, VringState>): void {
    try {
      const states = work();
      this.#outbox.flush();
      this.#send({ op: 'done', id, states });
    } catch (error) {
      this.#send({ op: 'failed', id, error: carriedError(error) });
    }
  }

  #start(activation: Activation): Map<number, VringState> {
    this.#runner.start(activation);
    this.#window.open(activation.poll ?? 'off');
    if (this.#window.polls) this.#runner.suppressKicks(true);
    const kicks: number[] = [];
    this.#kicks = kicks;
    try {
      for (const { index, kickFd } of activation.queues) {
        // Edge triggered: every signal wakes the loop, and no system call is spent on draining.
        this.#epoll.add(kickFd, EPOLLIN | EPOLLET, KICK_TOKENS + index);
        kicks.push(kickFd);
      }
    } catch (error) {
      this.#stop();
      throw error;
    }
    return new Map();
  }

  #stop(): Map<number, VringState> {
    const states = this.#runner.stop();
    this.#window.close();
    this.#unwatch();
    for (const kick of this.#kicks) this.#epoll.remove(kick);
    this.#kicks = [];
    return states;
  }

  #reset(): Map<number, VringState> {
    this.#runner.reset();
    return new Map();
  }

  #unwatch(): void {
    for (const fd of this.#watched) this.#epoll.remove(fd);
    this.#watched.clear();
    this.#againCount = 0;
    this.#wanted.fill(false);
  }

  broken(reason: string, denied?: DeniedAccess): void {
    this.#unwatch();
    this.#window.close();
    this.#send({ op: 'broken', reason, denied });
  }

  log(text: string): void {
    this.#send({ op: 'log', text });
  }

  post(message: unknown, key: string): void {
    this.#outbox.post(message, key);
  }

  breach(breach: Breach): void {
    this.#send({ op: 'breach', breach });
  }

  #send(message: FromQueueWorker): void {
    this.#port.postMessage(message);
  }
}

if (parentPort !== null) {
  const data = workerData as QueueWorkerData;
  nameThread(data.name);
  Atomics.store(data.steer, STEER_TID, gettid());
  releaseCallMemoryAtExit();
  const loaded = (await import(data.module)) as {
    createHandler: (options: unknown) => QueueHandler;
    /** The handler uses promises or timers. */
    eventLoop?: boolean;
  };
  const { createHandler, eventLoop } = loaded;
  if (eventLoop === true) new LoopWorker(parentPort, () => createHandler(data.options));
  else new QueueWorker(data, parentPort, createHandler).run();
}
