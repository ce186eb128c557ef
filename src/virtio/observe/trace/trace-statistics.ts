/** Counts a trace's records, for a summary. */
import * as record from './trace-record.ts';
import { deviceOf, queueOf } from './trace-record.ts';
import type { TraceRecord } from './trace-ring.ts';

/** Buckets for each doubling: neighbors differ by 9 %. */
const PER_DOUBLING = 8;
const BUCKETS = 40 * PER_DOUBLING;
/** Nanoseconds of the first bucket. */
const NS = 1e6;

/** Counts durations, in milliseconds, in buckets that grow by a constant factor: percentiles are cheap. */
export class LatencyHistogram {
  readonly #counts = new Float64Array(BUCKETS);
  #count = 0;
  #max = 0;

  add(ms: number): void {
    const bucket = Math.floor(Math.log2(Math.max(1, ms * NS)) * PER_DOUBLING);
    const at = Math.min(bucket, BUCKETS - 1);
    this.#counts[at] = (this.#counts[at] as number) + 1;
    this.#count++;
    this.#max = Math.max(this.#max, ms);
  }

  get count(): number {
    return this.#count;
  }

  get max(): number {
    return this.#max;
  }

  /** The upper bound of the bucket that holds it, 0 for none. @param share 0 to 1 */
  percentile(share: number): number {
    let left = Math.ceil(share * this.#count);
    if (left === 0) return 0;
    // The last bucket has no upper bound.
    for (let bucket = 0; bucket < BUCKETS - 1; bucket++) {
      left -= this.#counts[bucket] as number;
      if (left <= 0) return Math.min(2 ** ((bucket + 1) / PER_DOUBLING) / NS, this.#max);
    }
    return this.#max;
  }
}

/** Durations in milliseconds; all 0 without any. */
export interface LatencySummary {
  readonly count: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

/** The activity of one queue. */
export interface QueueSummary {
  /** Index of the device, and of its queue. */
  readonly device: number;
  readonly queue: number;
  /** Kicks that the serving thread woke for; the first one of each start is its own. */
  readonly kicks: number;
  /** Chains that were used. */
  readonly chains: number;
  /** Publishes of used chains, and how many chains the largest had. */
  readonly batches: number;
  readonly largestBatch: number;
  /** Interrupts sent, and publishes that the driver wanted none for. */
  readonly interrupts: number;
  readonly suppressed: number;
  /** From a kick to the publish of its results. */
  readonly kickToServed: LatencySummary;
  /** From the publish to the interrupt for it. */
  readonly servedToInterrupt: LatencySummary;
  /** From taking a chain to using it. */
  readonly request: LatencySummary;
}

/** Exits to user space for one reason. */
export interface ExitSummary {
  /** KVM_EXIT_* */
  readonly reason: number;
  readonly count: number;
  /** Milliseconds in user space. */
  readonly time: LatencySummary;
}

/** What a trace has recorded so far. */
export interface TraceStatistics {
  /** Milliseconds from the first record to the last. */
  readonly duration: number;
  readonly queues: readonly QueueSummary[];
  readonly exits: readonly ExitSummary[];
}

class QueueCounts {
  kicks = 0;
  chains = 0;
  batches = 0;
  largestBatch = 0;
  interrupts = 0;
  suppressed = 0;
  readonly kickToServed = new LatencyHistogram();
  readonly servedToInterrupt = new LatencyHistogram();
  readonly request = new LatencyHistogram();
  readonly popped = new Map<number, number>();
  kick: number | undefined;
  /** The kick whose results are not published yet. */
  due: number | undefined;
  served: number | undefined;
}

/** Counts as records come, in the order of their times. */
export class TraceCounter {
  readonly #queues = new Map<number, QueueCounts>();
  readonly #exits = new Map<number, LatencyHistogram>();
  #first: number | undefined;
  #last = 0;

  take(one: TraceRecord): void {
    this.#first ??= one.time;
    this.#last = one.time;
    if (one.what === record.EXIT) this.#exit(one);
    else if (queueOf(one.whom) !== record.DEVICE_ITSELF) this.#queue(one);
  }

  get statistics(): TraceStatistics {
    const queues = [...this.#queues].sort(([a], [b]) => a - b);
    const exits = [...this.#exits].map(([reason, times]) => ({
      reason,
      count: times.count,
      time: summary(times),
    }));
    return {
      duration: this.#last - (this.#first ?? this.#last),
      queues: queues.map(([whom, counts]) => ({
        device: deviceOf(whom),
        queue: queueOf(whom),
        kicks: counts.kicks,
        chains: counts.chains,
        batches: counts.batches,
        largestBatch: counts.largestBatch,
        interrupts: counts.interrupts,
        suppressed: counts.suppressed,
        kickToServed: summary(counts.kickToServed),
        servedToInterrupt: summary(counts.servedToInterrupt),
        request: summary(counts.request),
      })),
      exits: exits.sort((a, b) => b.count - a.count),
    };
  }

  #exit({ time, a, x }: TraceRecord): void {
    let times = this.#exits.get(a);
    if (times === undefined) {
      times = new LatencyHistogram();
      this.#exits.set(a, times);
    }
    times.add(time - x);
  }

  #queue({ whom, what, time, a, b }: TraceRecord): void {
    if (what === record.QUEUE_ENABLED || what === record.QUEUE_RESET) return;
    let counts = this.#queues.get(whom);
    if (counts === undefined) {
      counts = new QueueCounts();
      this.#queues.set(whom, counts);
    }
    switch (what) {
      case record.KICK:
        counts.kicks++;
        counts.kick = time;
        return;
      case record.KICK_END:
        counts.kick = undefined;
        return;
      case record.POP:
        counts.popped.set(a, time);
        if (counts.kick !== undefined) counts.due ??= counts.kick;
        return;
      case record.UNDO_POP:
        counts.popped.delete(a);
        return;
      case record.PUSH: {
        const popped = counts.popped.get(a);
        counts.popped.delete(a);
        counts.chains++;
        if (popped !== undefined) counts.request.add(time - popped);
        return;
      }
      case record.PUBLISH:
        counts.batches++;
        counts.largestBatch = Math.max(counts.largestBatch, a);
        if (counts.due !== undefined) counts.kickToServed.add(time - counts.due);
        counts.due = undefined;
        counts.served = b === 1 ? time : undefined;
        if (b === 0) counts.suppressed++;
        return;
      case record.INTERRUPT:
        counts.interrupts++;
        if (counts.served !== undefined) counts.servedToInterrupt.add(time - counts.served);
        counts.served = undefined;
    }
  }
}

function summary(times: LatencyHistogram): LatencySummary {
  return {
    count: times.count,
    p50: times.percentile(0.5),
    p90: times.percentile(0.9),
    p99: times.percentile(0.99),
    max: times.max,
  };
}
