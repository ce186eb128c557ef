/**
 * A ring of trace records in shared memory: one thread writes, the main thread reads. A full ring
 * drops new ones, and counts them.
 *
 * HOT: `TraceWriter.write`. No allocation, no lock, no BigInt.
 */
import { RECORD_DOUBLES, RECORD_WORDS } from './trace-record.ts';

/** Words of the header: both counters only grow, and wrap at 2^32. */
const WRITTEN = 0;
const READ = 1;
const DROPPED = 2;
const HEADER_BYTES = 64;
const RECORD_BYTES = RECORD_WORDS * 4;
/** Records of a ring: a power of two. */
const DEFAULT_RECORDS = 0x1_0000;

/** Memory for a ring. @param records a power of two */
export function allocateTraceRing(records: number = DEFAULT_RECORDS): SharedArrayBuffer {
  return new SharedArrayBuffer(HEADER_BYTES + records * RECORD_BYTES);
}

class TraceRing {
  readonly header: Int32Array;
  readonly words: Int32Array;
  readonly doubles: Float64Array;
  readonly mask: number;

  constructor(buffer: SharedArrayBuffer) {
    this.header = new Int32Array(buffer, 0, HEADER_BYTES / 4);
    this.words = new Int32Array(buffer, HEADER_BYTES);
    this.doubles = new Float64Array(buffer, HEADER_BYTES);
    this.mask = this.words.length / RECORD_WORDS - 1;
  }
}

/**
 * The thread's clock as CLOCK_MONOTONIC in milliseconds: the time origin of `performance.now` is
 * each thread's own. It is exact to nanoseconds, and takes no BigInt.
 */
export function monotonicOrigin(): number {
  let origin = Number.NEGATIVE_INFINITY;
  // The thread may lose its processor between the two clocks: the best of some tries counts.
  for (let i = 0; i < 16; i++) {
    origin = Math.max(origin, Number(process.hrtime.bigint()) / 1e6 - performance.now());
  }
  return origin;
}

/** The writing end, of one thread. */
export class TraceWriter {
  readonly #ring: TraceRing;
  readonly #origin = monotonicOrigin();
  #written: number;

  constructor(buffer: SharedArrayBuffer) {
    this.#ring = new TraceRing(buffer);
    this.#written = this.#ring.header[WRITTEN] as number;
  }

  /** CLOCK_MONOTONIC in milliseconds. */
  now(): number {
    return this.#origin + performance.now();
  }

  /** Writes a record with the current time. Arguments: trace-record.ts. */
  write(what: number, whom: number, a = 0, b = 0, x = 0, y = 0): void {
    const { header, words, doubles, mask } = this.#ring;
    const written = this.#written;
    // Pairs with the reader's store once it has copied the record that is overwritten here.
    if (((written - Atomics.load(header, READ)) | 0) > mask) {
      header[DROPPED] = (header[DROPPED] as number) + 1;
      return;
    }
    const place = written & mask;
    const word = place * RECORD_WORDS;
    const double = place * RECORD_DOUBLES;
    doubles[double] = this.#origin + performance.now();
    words[word + 2] = what;
    words[word + 3] = whom;
    words[word + 4] = a;
    words[word + 5] = b;
    doubles[double + 3] = x;
    doubles[double + 4] = y;
    this.#written = (written + 1) | 0;
    // The record before the counter: pairs with the reader's load.
    Atomics.store(header, WRITTEN, this.#written);
  }
}

/** A record as the reader gets it. */
export interface TraceRecord {
  readonly time: number;
  readonly what: number;
  readonly whom: number;
  readonly a: number;
  readonly b: number;
  readonly x: number;
  readonly y: number;
}

/** The reading end, of the main thread. */
export class TraceReader {
  readonly #ring: TraceRing;
  #read = 0;

  constructor(buffer: SharedArrayBuffer) {
    this.#ring = new TraceRing(buffer);
  }

  /** Records dropped because the ring was full, so far. */
  get dropped(): number {
    return (this.#ring.header[DROPPED] as number) >>> 0;
  }

  /**
   * Takes the records, oldest first.
   * @param until leaves later records, in CLOCK_MONOTONIC milliseconds
   */
  drain(until: number, take: (record: TraceRecord) => void): void {
    const { header, words, doubles, mask } = this.#ring;
    const written = Atomics.load(header, WRITTEN);
    while (this.#read !== written) {
      const place = this.#read & mask;
      const word = place * RECORD_WORDS;
      const double = place * RECORD_DOUBLES;
      const time = doubles[double] as number;
      if (time > until) break;
      take({
        time,
        what: words[word + 2] as number,
        whom: words[word + 3] as number,
        a: words[word + 4] as number,
        b: words[word + 5] as number,
        x: doubles[double + 3] as number,
        y: doubles[double + 4] as number,
      });
      this.#read = (this.#read + 1) | 0;
    }
    Atomics.store(header, READ, this.#read);
  }
}
