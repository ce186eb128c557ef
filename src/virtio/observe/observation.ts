/** What is to watch a device, and what it may have to say; plain, cloneable messages. */

/** What is to watch a device's queues while they are served. */
export interface Observation {
  /** Number of the device in its machine, for records. */
  readonly device: number;
  /** Ring of records that the thread which serves the queues writes: see trace-ring.ts. */
  readonly trace?: SharedArrayBuffer;
  /** Check the rules of virtio. */
  readonly check?: boolean;
}

/** A rule of virtio that somebody broke. */
export interface Breach {
  /** Who broke it. */
  readonly side: 'driver' | 'device';
  /** Names the rule; reported once per device and queue. */
  readonly rule: string;
  /** Index of the queue; absent when it is about none. */
  readonly queue?: number;
  /** One line: what happened, with the clause. */
  readonly text: string;
  /** The ring, as far as it matters, in lines; empty when there is none. */
  readonly dump: readonly string[];
}
