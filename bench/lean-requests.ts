/** A driver of requests that costs next to nothing: chains laid out once, only a few words of them change. */
import { VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE, virtq_desc } from '../src/abi/virtio-ring.ts';
import type { DriverQueue } from '../src/testing/driver-queue.ts';
import type { GuestHeap } from '../src/testing/guest-heap.ts';

/** How it reaches the device. */
export interface LeanRequestsOptions {
  /** A split queue of enough descriptors, with neither event index nor indirect tables. */
  readonly queue: DriverQueue;
  readonly heap: GuestHeap;
  /** Tells the device of new requests. */
  readonly notify: () => void;
  /** Returns when some request may be done. */
  readonly wait: () => void;
  /** Requests under way. */
  readonly depth: number;
}

/** One buffer of every request. */
export interface LeanSegment {
  readonly length: number;
  /** By the device. */
  readonly writable: boolean;
}

/** Requests of one shape on one queue. */
export class LeanRequests {
  readonly #options: LeanRequestsOptions;
  readonly #segments: readonly LeanSegment[];
  readonly #prepare: (chain: number) => void;
  /** By chain, then by segment. */
  readonly views: DataView[][] = [];
  #avail = 0;

  /**
   * @param prepare changes a chain's words before it is offered
   * @param from the ring's available index, where other drivers of the queue have ended
   */
  constructor(
    options: LeanRequestsOptions,
    segments: readonly LeanSegment[],
    prepare: (chain: number) => void,
    from = 0,
  ) {
    this.#avail = from;
    this.#options = options;
    this.#segments = segments;
    this.#prepare = prepare;
    for (let chain = 0; chain < options.depth; chain++) this.#layOut(chain);
  }

  /** Works until so many requests are done. */
  run(requests: number): void {
    const { queue, depth, notify, wait } = this.#options;
    const { driverArea, deviceArea, config } = queue;
    const segments = this.#segments.length;
    let seen = deviceArea.getUint16(2, true);
    let done = 0;
    for (let i = 0; i < depth; i++) this.#offer(i);
    driverArea.setUint16(2, this.#avail, true);
    let left = requests - depth;
    while (done < requests) {
      notify();
      let used = deviceArea.getUint16(2, true);
      while (used === seen) {
        wait();
        used = deviceArea.getUint16(2, true);
      }
      for (; seen !== used; seen = (seen + 1) & 0xffff) {
        const head = deviceArea.getUint32(4 + (seen % config.size) * 8, true);
        if (left-- > 0) this.#offer(head / segments);
        done++;
      }
      driverArea.setUint16(2, this.#avail, true);
    }
  }

  #offer(chain: number): void {
    const { queue } = this.#options;
    this.#prepare(chain);
    const entry = 4 + (this.#avail % queue.config.size) * 2;
    queue.driverArea.setUint16(entry, chain * this.#segments.length, true);
    this.#avail = (this.#avail + 1) & 0xffff;
  }

  #layOut(chain: number): void {
    const { heap, queue } = this.#options;
    const count = this.#segments.length;
    const views = this.#segments.map(({ length, writable }, i) => {
      const gpa = heap.allocate(length);
      const at = (chain * count + i) * virtq_desc.size;
      const next = i < count - 1 ? VIRTQ_DESC_F_NEXT : 0;
      queue.descriptorArea.setBigUint64(at, BigInt(gpa), true);
      queue.descriptorArea.setUint32(at + 8, length, true);
      queue.descriptorArea.setUint16(at + 12, next | (writable ? VIRTQ_DESC_F_WRITE : 0), true);
      queue.descriptorArea.setUint16(at + 14, chain * count + i + 1, true);
      return heap.view(gpa, length);
    });
    this.views.push(views);
  }
}
