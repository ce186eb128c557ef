/** An activation over guest RAM of its own, and a record of what a datapath reports. */
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

/** What a datapath reported, in order. */
export type Report =
  | { readonly kind: 'broken'; readonly reason: string }
  | { readonly kind: 'log'; readonly text: string }
  | { readonly kind: 'message'; readonly message: unknown };

/** Two empty queues with eventfds of their own. */
export class DatapathRig implements Disposable {
  readonly ram = new Ram(RAM_SIZE);
  readonly kicks = [new Eventfd(), new Eventfd()] as const;
  readonly call = new Eventfd();
  readonly reports: Report[] = [];
  #waiting: (() => void) | null = null;

  readonly events: DatapathEvents = {
    broken: (reason) => this.#record({ kind: 'broken', reason }),
    log: (text) => this.#record({ kind: 'log', text }),
    message: (message) => this.#record({ kind: 'message', message }),
  };

  /** An activation of the two queues, from `states`. */
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

  /** Resolves to the first report that `wanted` accepts, and removes it from the record. */
  async next(wanted: (report: Report) => boolean): Promise<Report> {
    const deadline = setTimeout(() => undefined, DEADLINE_MS);
    const started = Date.now();
    try {
      for (;;) {
        const at = this.reports.findIndex(wanted);
        if (at >= 0) return this.reports.splice(at, 1)[0] as Report;
        if (Date.now() - started >= DEADLINE_MS)
          throw new Error('not reported before the deadline');
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
    const report = await this.next(
      (h) => h.kind === 'message' && (h.message as { what: string }).what === what,
    );
    return report.kind === 'message' ? report.message : undefined;
  }

  [Symbol.dispose](): void {
    for (const kick of this.kicks) kick.close();
    this.call.close();
    this.ram[Symbol.dispose]();
  }

  #record(report: Report): void {
    this.reports.push(report);
    this.#waiting?.();
    this.#waiting = null;
  }
}
