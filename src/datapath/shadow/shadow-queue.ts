/**
 * One queue whose chains go to a shadow ring: what the driver made readable is copied into the memory of that ring,
 * and what the backend wrote is copied back.
 *
 * HOT. Chains are kept in a pool, and the addon copies those of a batch in one call.
 */

import { signalEventfd } from '../../host/fd.ts';
import { COPY, COPY_BYTES, COPY_SOURCE, COPY_TARGET, CopyList } from '../../host/native-addon.ts';
import type { ActiveQueue } from '../../virtio/active-queue.ts';
import type { HandlerContext } from '../../virtio/device.ts';
import { DescriptorChain, MAX_SEGMENTS } from '../../virtio/queue/descriptor-chain.ts';
import { faultText, POP_CHAIN, POP_EMPTY } from '../../virtio/queue/virtqueue.ts';
import { IndexList } from './index-list.ts';
import { ShadowBuffers } from './shadow-buffers.ts';
import { LARGE_SIZE, type ShadowPlaces } from './shadow-layout.ts';
import { ShadowRing, TAKE_FAULT, TAKE_NONE } from './shadow-ring.ts';

/** Chains that are taken before the rest of the thread gets its turn. */
const BUDGET = 256;
/** The writable part begins at a sector, for backends that read into it directly. */
const ALIGNMENT = 512;
/** Copies of a batch. */
const COPIES = 2 * MAX_SEGMENTS;

/** From the handler's start to its stop. */
export class ShadowQueue {
  readonly #active: ActiveQueue;
  readonly #context: HandlerContext;
  readonly #address: number;
  readonly #kickFd: number;
  readonly #ring: ShadowRing;
  readonly #buffers: ShadowBuffers;
  /** In flight, by head. */
  readonly #chains: (DescriptorChain | undefined)[];
  /** Their heads, in the order of the ring. */
  readonly #order: IndexList;
  /** By head: where the writable part is, and how many chains had been popped before it. */
  readonly #writable: Int32Array;
  readonly #popped: Float64Array;
  readonly #free: DescriptorChain[] = [];
  /** Of an earlier start, to be offered before any other. */
  readonly #waiting: DescriptorChain[];
  readonly #copies = new CopyList(COPIES);
  #copyCount = 0;
  /** Chains popped in this run, and not given back. */
  #count = 0;
  /** There is no room; the driver's chains wait. */
  #full = false;

  /**
   * @param address of the shadow memory
   * @param kickFd signals its device
   * @param waiting chains in flight when it was last stopped
   */
  constructor(
    active: ActiveQueue,
    context: HandlerContext,
    address: number,
    places: ShadowPlaces,
    kickFd: number,
    waiting: readonly DescriptorChain[],
  ) {
    const size = shadowSize(active.virtqueue.size);
    this.#active = active;
    this.#context = context;
    this.#address = address;
    this.#kickFd = kickFd;
    this.#ring = new ShadowRing(address, places, size);
    this.#buffers = new ShadowBuffers(places);
    this.#chains = new Array<DescriptorChain | undefined>(size).fill(undefined);
    this.#order = new IndexList(size);
    this.#writable = new Int32Array(size);
    this.#popped = new Float64Array(size);
    this.#waiting = [...waiting];
  }

  /** Offers what the driver made available. HOT. */
  take(): void {
    const { virtqueue } = this.#active;
    while (this.#waiting[0] !== undefined) {
      if (!this.#offer(this.#waiting[0], -1)) break;
      this.#waiting.shift();
    }
    this.#full = this.#waiting.length > 0;
    let left = BUDGET;
    while (left > 0 && !this.#full) {
      const chain = this.#free.pop() ?? new DescriptorChain(this.#context.memory);
      const popped = virtqueue.pop(chain);
      if (popped !== POP_CHAIN) {
        this.#free.push(chain);
        this.#publish();
        if (popped !== POP_EMPTY) {
          this.#context.broken(`queue ${virtqueue.index}: ${faultText(popped)}`);
          return;
        }
        if (!virtqueue.enableKicks()) return;
        continue;
      }
      left--;
      if (!this.#offer(chain, this.#count)) {
        virtqueue.undoPop(chain);
        this.#free.push(chain);
        this.#full = true;
      } else {
        this.#count++;
      }
      if (this.#context.isInterrupted?.() === true) left = 0;
    }
    this.#publish();
    if (!this.#full) this.#active.kickAgain();
  }

  /** Returns what the backend used to the driver. HOT. */
  reap(): void {
    const { virtqueue } = this.#active;
    let count = 0;
    let fault = false;
    for (;;) {
      const head = this.#ring.take();
      if (head === TAKE_NONE) break;
      const chain = head === TAKE_FAULT ? undefined : this.#chains[head];
      const { written } = this.#ring;
      if (chain === undefined || written > chain.writableLength) {
        fault = true;
        break;
      }
      this.#copyBack(chain, this.#address + (this.#writable[head] as number), written);
      count++;
      this.#forget(head);
      virtqueue.push(chain.id, chain.slots, written);
      this.#free.push(chain);
    }
    this.#copy();
    this.#active.publish();
    if (fault) this.#context.broken(`queue ${virtqueue.index}: the backend used a buffer wrongly`);
    else if (this.#full && count > 0) this.take();
  }

  /**
   * Ends: what the backend has used goes to the driver, and what it has not goes back to the queue.
   * @param continuing whether the queue resumes later; else the driver abandons what is in flight
   * @returns chains that cannot go back, since later ones are used: for the next start
   */
  stop(continuing: boolean): DescriptorChain[] {
    this.reap();
    if (!continuing) return [];
    const { virtqueue } = this.#active;
    for (;;) {
      const { last } = this.#order;
      const chain = last < 0 ? undefined : this.#chains[last];
      if (chain === undefined || this.#popped[last] !== this.#count - 1) break;
      virtqueue.undoPop(chain);
      this.#count--;
      this.#forget(last);
    }
    const kept: DescriptorChain[] = [];
    for (let head = this.#order.first; head >= 0; head = this.#order.after(head)) {
      const chain = this.#chains[head];
      if (chain !== undefined) kept.push(chain);
    }
    return [...kept, ...this.#waiting];
  }

  /** @param popped chains popped before it; -1: in an earlier run. @returns false when there is no room at present */
  #offer(chain: DescriptorChain, popped: number): boolean {
    const { readableLength, writableLength } = chain;
    const parts = (readableLength > 0 ? 1 : 0) + (writableLength > 0 ? 1 : 0);
    const writableAt = Math.ceil(readableLength / ALIGNMENT) * ALIGNMENT;
    const bytes = writableAt + writableLength;
    if (parts === 0 || bytes > LARGE_SIZE) {
      const { index } = this.#active.virtqueue;
      const what = parts === 0 ? 'no byte' : `${bytes} bytes`;
      this.#context.broken(
        `queue ${index}: a chain of ${what}; with share=shadow it may have up to ${LARGE_SIZE}`,
      );
      return false;
    }
    if (this.#ring.free < parts) return false;
    const at = this.#buffers.allocate(this.#ring.head, bytes);
    if (at < 0) return false;
    this.#copyIn(chain, this.#address + at);
    const head = this.#ring.offer(at, readableLength, at + writableAt, writableLength);
    this.#chains[head] = chain;
    this.#order.add(head);
    this.#writable[head] = at + writableAt;
    this.#popped[head] = popped;
    return true;
  }

  #forget(head: number): void {
    this.#chains[head] = undefined;
    this.#order.remove(head);
    this.#buffers.release(head);
    this.#ring.release(head);
  }

  #publish(): void {
    this.#copy();
    if (this.#ring.publish()) signalEventfd(this.#kickFd);
  }

  #copyIn(chain: DescriptorChain, to: number): void {
    this.#addParts(chain, 0, chain.readableLength, to, false);
  }

  #copyBack(chain: DescriptorChain, from: number, bytes: number): void {
    this.#addParts(chain, chain.readable, bytes, from, true);
  }

  /** @param first segment that has some of the bytes @param back from here into the chain */
  #addParts(chain: DescriptorChain, first: number, bytes: number, at: number, back: boolean): void {
    let here = at;
    let left = bytes;
    for (let i = first; left > 0; i++) {
      const there = chain.memory.address + (chain.offset[i] as number);
      const length = Math.min(left, chain.length[i] as number);
      if (back) this.#add(there, here, length);
      else this.#add(here, there, length);
      here += length;
      left -= length;
    }
  }

  #add(target: number, source: number, bytes: number): void {
    if (this.#copyCount === COPIES) this.#copy();
    const { numbers } = this.#copies;
    const at = this.#copyCount * COPY;
    numbers[at + COPY_TARGET] = target;
    numbers[at + COPY_SOURCE] = source;
    numbers[at + COPY_BYTES] = bytes;
    this.#copyCount++;
  }

  #copy(): void {
    this.#copies.run(this.#copyCount);
    this.#copyCount = 0;
  }
}

/** Descriptors of the shadow of a queue: also those of a packed one are a power of two here. */
export function shadowSize(size: number): number {
  return 2 ** Math.floor(Math.log2(size));
}
