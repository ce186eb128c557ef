/** A data half that reports every call to its control half, and fails on request. */
import type { HandlerContext, QueueHandler } from '../../../src/virtio/device.ts';

/** What a probe is made with. */
export interface ProbeOptions {
  /** A descriptor to watch with token 7. */
  readonly watchFd?: number;
}

/** What it reports. */
export type ProbeReport =
  | { readonly what: 'start'; readonly features: bigint; readonly queues: readonly number[] }
  | { readonly what: 'kick'; readonly queue: number }
  | { readonly what: 'ready'; readonly token: number; readonly events: number }
  | { readonly what: 'echo'; readonly message: unknown }
  | { readonly what: 'stop' };

/** What it does when it gets one of these as a message; anything else it echoes. */
export type ProbeCommand = 'throw' | 'break' | 'interrupt' | 'again' | 'again and again' | 'die';

class Probe implements QueueHandler {
  readonly #options: ProbeOptions;
  #context: HandlerContext | null = null;
  #reports = 0;

  constructor(options: ProbeOptions) {
    this.#options = options;
  }

  start(context: HandlerContext): void {
    this.#context = context;
    const queues = context.queues.flatMap((queue, index) => (queue === undefined ? [] : [index]));
    this.#say({ what: 'start', features: context.features, queues });
    if (this.#options.watchFd !== undefined) context.reactor.watch(this.#options.watchFd, 1, 7);
  }

  kick(queue: number): void {
    this.#say({ what: 'kick', queue });
  }

  ready(token: number, events: number): void {
    this.#context?.reactor.watch(this.#options.watchFd ?? -1, 0, 7);
    this.#say({ what: 'ready', token, events });
  }

  stop(): void {
    this.#say({ what: 'stop' });
    this.#context = null;
  }

  message(message: unknown): void {
    const context = this.#context;
    if (message === 'throw') throw new TypeError('thrown by the probe');
    if (message === 'break') context?.broken('broken by the probe');
    else if (message === 'interrupt') context?.queues[0]?.host.interrupt(0);
    else if (message === 'again') context?.queues[1]?.kickAgain();
    else if (message === 'again and again') {
      for (let i = 0; i < 1000; i++) for (const queue of context?.queues ?? []) queue?.kickAgain();
    } else if (message === 'die') process.exit(3);
    else this.#say({ what: 'echo', message });
  }

  #say(report: ProbeReport): void {
    // Without a key, since a message replaces the pending one of its key, and all must arrive.
    this.#context?.post(report, String(this.#reports++));
  }
}

/** Makes the probe, in any thread. */
export function createHandler(options: unknown): QueueHandler {
  return new Probe(options as ProbeOptions);
}
