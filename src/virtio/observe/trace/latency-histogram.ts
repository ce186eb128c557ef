/** Counts durations in buckets that grow by a constant factor, so that percentiles are cheap. */

/** Buckets for each doubling: neighbours differ by 9 %. */
const PER_DOUBLING = 8;
const BUCKETS = 40 * PER_DOUBLING;
/** Nanoseconds of the first bucket. */
const NS = 1e6;

/** Durations in milliseconds. */
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

  /** The upper bound of the bucket that holds it, 0 of none. @param share 0 to 1 */
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
