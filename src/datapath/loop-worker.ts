/**
 * The thread of a queue worker whose handler uses promises and timers: kicks come over the
 * thread's event loop, which therefore turns, and cost a little more than in epoll_wait.
 */
import type { MessagePort } from 'node:worker_threads';
import type { QueueHandler } from '../virtio/device.ts';
import type { VringState } from '../virtio/queue/virtqueue.ts';
import { InProcessDatapath } from './in-process.ts';
import {
  carriedError,
  type FromQueueWorker,
  LatestMessages,
  type ToQueueWorker,
} from './queue-worker-protocol.ts';

/** Serves until it is closed. */
export class LoopWorker {
  readonly #port: MessagePort;
  readonly #datapath: InProcessDatapath;
  readonly #outbox = new LatestMessages((messages) => this.#send({ op: 'post', messages }));
  /** Messages are handled strictly in order. */
  #work: Promise<void> = Promise.resolve();

  constructor(port: MessagePort, createHandler: () => QueueHandler) {
    this.#port = port;
    this.#datapath = new InProcessDatapath(createHandler, {
      broken: (reason, denied) => this.#send({ op: 'broken', reason, denied }),
      log: (text) => this.#send({ op: 'log', text }),
      message: (message, key) => this.#outbox.post(message, key),
      breach: (breach) => this.#send({ op: 'breach', breach }),
    });
    port.on('message', (message: ToQueueWorker) => {
      this.#work = this.#work.then(() => this.#message(message));
    });
  }

  async #message(message: ToQueueWorker): Promise<void> {
    switch (message.op) {
      case 'start':
        await this.#answer(message.id, async () => {
          await this.#datapath.start(message.activation);
          return new Map();
        });
        return;
      case 'stop':
        await this.#answer(message.id, () => this.#datapath.stop(message.continuing));
        return;
      case 'reset':
        await this.#answer(message.id, async () => {
          await this.#datapath.reset();
          return new Map();
        });
        return;
      case 'states':
        await this.#answer(message.id, () => this.#datapath.states());
        return;
      case 'post':
        for (const one of message.messages) this.#datapath.post(one);
        this.#send({ op: 'taken' });
        return;
      case 'taken':
        this.#outbox.taken();
        return;
      case 'close':
        await this.#datapath.close();
        this.#port.close();
        // Timers of the device's own would keep the thread alive.
        setImmediate(() => process.exit());
    }
  }

  async #answer(id: number, work: () => Promise<ReadonlyMap<number, VringState>>): Promise<void> {
    try {
      const states = await work();
      this.#outbox.flush();
      this.#send({ op: 'done', id, states });
    } catch (error) {
      this.#send({ op: 'failed', id, error: carriedError(error) });
    }
  }

  #send(message: FromQueueWorker): void {
    this.#port.postMessage(message);
  }
}
