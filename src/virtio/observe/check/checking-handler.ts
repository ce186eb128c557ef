/** A data half whose queues are checked; a timer detects when a side lets the other wait. */
import { Timerfd } from '../../../host/fd.ts';
import { ActiveQueue } from '../../active-queue.ts';
import { type HandlerContext, type QueueHandler, READABLE } from '../../device.ts';
import type { QueueConfig } from '../../queue/virtqueue.ts';
import { type Breach, ObservedHandler } from '../observation.ts';
import { CheckedQueue } from './checked-queue.ts';

const TICK_NS = 1e9;
/** The last token that a handler may choose: the timer's expiry distinguishes them. */
const TICK_TOKEN = 0xffff;

/** The receiver of breaches, and the queues. */
export interface CheckOptions {
  readonly features: bigint;
  readonly queues: readonly QueueConfig[];
  breach(breach: Breach): void;
}

/** Checks every queue of a data half. */
export class CheckingHandler extends ObservedHandler {
  readonly #options: CheckOptions;
  readonly #queues: (CheckedQueue | undefined)[] = [];
  #context: HandlerContext | undefined;
  #timer: Timerfd | undefined;

  constructor(inner: QueueHandler, options: CheckOptions) {
    super(inner);
    this.#options = options;
  }

  override start(context: HandlerContext): void {
    this.#context = context;
    this.#timer = new Timerfd();
    context.reactor.watch(this.#timer.fd, READABLE, TICK_TOKEN);
    this.#timer.arm(TICK_NS);
    super.start(context);
  }

  override kick(queue: number): void {
    this.#queues[queue]?.kicked();
    super.kick(queue);
  }

  override ready(token: number, events: number): void {
    if (token === TICK_TOKEN && this.#timer?.drain() === true) this.#tick();
    else super.ready(token, events);
  }

  override stop(): void {
    try {
      super.stop();
    } finally {
      if (this.#timer !== undefined) {
        this.#context?.reactor.watch(this.#timer.fd, 0, TICK_TOKEN);
        this.#timer.close();
        this.#timer = undefined;
      }
    }
  }

  protected override wrap(queue: ActiveQueue): ActiveQueue {
    const { index } = queue.virtqueue;
    const config = this.#options.queues.find((one) => one.index === index);
    const memory = this.#context?.memory;
    if (config === undefined || memory === undefined) return queue;
    const { features } = this.#options;
    const breach = (one: Breach): void => this.#options.breach(one);
    const checked = new CheckedQueue(queue.virtqueue, { memory, config, features, breach });
    this.#queues[index] = checked;
    return new ActiveQueue(checked, {
      ...queue.host,
      interrupt: () => {
        checked.interrupted();
        queue.host.interrupt(index);
      },
    });
  }

  #tick(): void {
    for (const queue of this.#queues) queue?.tick();
    this.#timer?.arm(TICK_NS);
  }
}
