/** What observes a device, and its reports; plain, cloneable messages. */

/** What observes a device's queues while they are served. */
export interface Observation {
  /** Index of the device in its machine, for records. */
  readonly device: number;
  /** Ring of records that the thread serving the queues writes: see trace-ring.ts. */
  readonly trace?: SharedArrayBuffer;
  /** Check the rules of virtio. */
  readonly check?: boolean;
}

/** A breach of a rule of virtio. */
export interface Breach {
  /** Which side broke it. */
  readonly side: 'driver' | 'device';
  /** Identifies the rule; reported once per device and queue. */
  readonly rule: string;
  /** Index of the queue; absent when none is concerned. */
  readonly queue?: number;
  /** One line: what happened, with the clause. */
  readonly text: string;
  /** The relevant part of the ring, in lines; empty when there is none. */
  readonly dump: readonly string[];
}
