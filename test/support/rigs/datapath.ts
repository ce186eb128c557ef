/** An activation over guest RAM of its own, and a record of what a datapath says. */
import type { Activation, DatapathEvents } from '../../../src/datapath/datapath.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import { Ram } from '../../../src/memory/ram.ts';
import type { QueueConfig, VringState } from '../../../src/virtio/queue/virtqueue.ts';

const RAM_SIZE = 2 ** 20;
const QUEUE_SIZE = 16;
/** Bytes between the areas of two queues; the rings are empty ones, all zeroes. */
const QUEUE_STRIDE = 0x1_0000;
/** How long a test waits for something that must happen. */
const DEADLINE_MS = 10_000;

/** What a datapath said, in order. */
export type Heard =
  | { readonly kind: 'broken'; readonly reason: string }
  | { readonly kind: 'log'; readonly text: string }
  | { readonly kind: 'message'; readonly message: unknown };

/** Two empty queues with eventfds of their own. */
export class DatapathRig implements Disposable {
  readonly ram = new Ram(RAM_SIZE);
  readonly kicks = [new Eventfd(), new Eventfd()] as const;
  readonly call = new Eventfd();
  readonly heard: Heard[] = [];
  #waiting: (() => void) | null = null;

  readonly events: DatapathEvents = {
    broken: (reason) => this.#hear({ kind: 'broken', reason }),
    log: (text) => this.#hear({ kind: 'log', text }),
    message: (message) => this.#hear({ kind: 'message', message }),
  };

  /** An activation of the two queues, from where `states` says. */
  activation(states: ReadonlyMap<number, VringState> = new Map()): Activation {
    const queues = this.kicks.map((kick, index): QueueConfig => {
      const state = states.get(index);
      return {
        index,
        size: QUEUE_SIZE,
        descriptorArea: index * QUEUE_STRIDE,
        driverArea: index * QUEUE_STRIDE + 0x1000,
        deviceArea: index * QUEUE_STRIDE + 0x2000,
        kickFd: kick.fd,
        callFd: index === 0 ? this.call.fd : -1,
        ...(state === undefined ? {} : { state }),
      };
    });
    return { memory: this.ram.memory.share, features: 1n << 32n, queues };
  }

  /** Resolves to the first thing heard that `wanted` accepts, which is taken off the record. */
  async hear(wanted: (heard: Heard) => boolean): Promise<Heard> {
    const deadline = setTimeout(() => undefined, DEADLINE_MS);
    const started = Date.now();
    try {
      for (;;) {
        const at = this.heard.findIndex(wanted);
        if (at >= 0) return this.heard.splice(at, 1)[0] as Heard;
        if (Date.now() - started >= DEADLINE_MS) throw new Error('not heard before the deadline');
        await new Promise<void>((resolve) => {
          this.#waiting = resolve;
          setTimeout(resolve, DEADLINE_MS).unref();
        });
      }
    } finally {
      clearTimeout(deadline);
    }
  }

  /** Resolves to the probe's report with this `what`. */
  async report(what: string): Promise<unknown> {
    const heard = await this.hear(
      (h) => h.kind === 'message' && (h.message as { what: string }).what === what,
    );
    return heard.kind === 'message' ? heard.message : undefined;
  }

  [Symbol.dispose](): void {
    for (const kick of this.kicks) kick.close();
    this.call.close();
    this.ram[Symbol.dispose]();
  }

  #hear(heard: Heard): void {
    this.heard.push(heard);
    this.#waiting?.();
    this.#waiting = null;
  }
}
