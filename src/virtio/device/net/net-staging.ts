/**
 * Receive buffers that were taken from the queue and await packets, as one iovec array over all
 * of them: a packet that takes several buffers is one read.
 *
 * HOT.
 */
import { virtio_net_hdr } from '../../../abi/virtio-net.ts';
import { addressOf, NativeMemory } from '../../../host/native-memory.ts';
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import type { HandlerContext } from '../../device.ts';
import { DescriptorChain, IOVEC_SIZE } from '../../queue/descriptor-chain.ts';
import { faultText, POP_CHAIN, type Virtqueue } from '../../queue/virtqueue.ts';

/** UIO_MAXIOV, and one of them is the spill area. */
const MAX_SEGMENTS = 1023;
/** Size of the arrays: twice that, so that entries are rarely moved to the front. */
const PLACES = 2 * MAX_SEGMENTS;
const IOVEC_WORDS = IOVEC_SIZE / 4;
/** More than the largest packet with its header: 16 bits of IP length. */
const SPILL_SIZE = 68 * 1024;

/** A buffer was staged. */
export const STAGE_ADDED = 1;
/** None is available. */
export const STAGE_EMPTY = 0;
/** No more segments fit into one read. */
export const STAGE_FULL = 2;
/** The driver broke a rule; the device is broken. */
export const STAGE_FAULT = -1;

/** A queue of buffers: `[head, tail)` of the arrays. */
export class StagedBuffers {
  /** Bytes in all staged buffers. */
  bytes = 0;
  readonly spillSize = SPILL_SIZE;
  readonly #virtqueue: Virtqueue;
  readonly #context: HandlerContext;
  readonly #memory: GuestMemory;
  readonly #chain: DescriptorChain;
  readonly #spill = new NativeMemory(SPILL_SIZE);
  /** Bytes that were staged in front of the spill area at the last read. */
  #spillStart = 0;
  /** By buffer. */
  readonly #id = new Uint32Array(PLACES);
  readonly #slots = new Uint32Array(PLACES);
  readonly #length = new Float64Array(PLACES);
  readonly #segments = new Uint32Array(PLACES);
  #head = 0;
  #tail = 0;
  /** By segment. */
  readonly #offset = new Float64Array(PLACES + 1);
  readonly #iovec = new Uint32Array((PLACES + 1) * IOVEC_WORDS);
  readonly #iovecBase = addressOf(this.#iovec);
  #segmentHead = 0;
  #segmentTail = 0;

  constructor(virtqueue: Virtqueue, context: HandlerContext) {
    this.#virtqueue = virtqueue;
    this.#context = context;
    this.#memory = context.memory;
    this.#chain = new DescriptorChain(context.memory, virtqueue.size);
  }

  /** Takes the next buffer from the queue. Returns one of STAGE_*. */
  add(): number {
    const chain = this.#chain;
    const popped = this.#virtqueue.pop(chain);
    if (popped !== POP_CHAIN) {
      if (popped === 0) return STAGE_EMPTY;
      this.#context.broken(`receive queue: ${faultText(popped)}`);
      return STAGE_FAULT;
    }
    if (chain.writableLength < virtio_net_hdr.size) {
      this.#virtqueue.undoPop(chain);
      this.#context.broken('a receive buffer is shorter than the packet header (§5.1.6.3.1)');
      return STAGE_FAULT;
    }
    const wanted = chain.count - chain.readable;
    const free = MAX_SEGMENTS - (this.#segmentTail - this.#segmentHead);
    if (wanted > free && this.#tail > this.#head) {
      this.#virtqueue.undoPop(chain);
      return STAGE_FULL;
    }
    // Only a single buffer can have more segments than a system call takes: the rest stays empty.
    this.#append(chain, Math.min(wanted, free));
    return STAGE_ADDED;
  }

  /** Appends the spill area to the iovecs of the next read. Returns their number. */
  offerSpill(): number {
    const word = this.#segmentTail * IOVEC_WORDS;
    const { address } = this.#spill;
    this.#iovec[word] = address >>> 0;
    this.#iovec[word + 1] = Math.floor(address / 2 ** 32);
    this.#iovec[word + 2] = SPILL_SIZE;
    this.#iovec[word + 3] = 0;
    this.#spillStart = this.bytes;
    return this.#segmentTail - this.#segmentHead + 1;
  }

  /** Where the iovecs of the staged buffers start. */
  get iovecAddress(): number {
    return this.#iovecBase + this.#segmentHead * IOVEC_SIZE;
  }

  /** A byte of the packet in the staged buffers; `position` is below `bytes`. */
  byteAt(position: number): number {
    return this.#memory.readU8(this.#locate(position));
  }

  setByteAt(position: number, value: number): void {
    this.#memory.writeU8(this.#locate(position), value);
  }

  /**
   * Copies a packet's spilled part into the buffer that was staged last.
   * @param position of the buffer's first byte in the packet
   * @param length of the packet
   */
  copySpill(position: number, length: number): void {
    const buffer = this.#tail - 1;
    const first = this.#segmentTail - (this.#segments[buffer] as number);
    const end = length - this.#spillStart;
    let from = position - this.#spillStart;
    for (let i = first; i < this.#segmentTail && from < end; i++) {
      const part = Math.min(this.#iovec[i * IOVEC_WORDS + 2] as number, end - from);
      const guest = this.#memory.bytes(this.#offset[i] as number, part);
      guest.set(this.#spill.bytes.subarray(from, from + part));
      from += part;
    }
  }

  /** How many buffers, from the first, a packet of this length needs. */
  count(length: number): number {
    let room = 0;
    let at = this.#head;
    while (room < length) room += this.#length[at++] as number;
    return at - this.#head;
  }

  /** Returns the first buffers to the driver, with a packet in them. */
  push(buffers: number, length: number): void {
    let left = length;
    for (let i = 0; i < buffers; i++) {
      const at = this.#head++;
      const room = this.#length[at] as number;
      const used = Math.min(room, left);
      this.#virtqueue.push(this.#id[at] as number, this.#slots[at] as number, used);
      this.#segmentHead += this.#segments[at] as number;
      this.bytes -= room;
      left -= used;
    }
    if (this.#head === this.#tail) this.#moveToFront();
  }

  /** Gives all staged buffers back to the queue, latest first. */
  undo(): void {
    const chain = this.#chain;
    while (this.#tail > this.#head) {
      const at = --this.#tail;
      chain.clear();
      chain.id = this.#id[at] as number;
      chain.slots = this.#slots[at] as number;
      this.#virtqueue.undoPop(chain);
    }
    this.bytes = 0;
    this.#segmentTail = this.#segmentHead;
  }

  /** RAM offset of a byte of the packet. */
  #locate(position: number): number {
    let skip = position;
    let at = this.#segmentHead;
    for (;;) {
      const length = this.#iovec[at * IOVEC_WORDS + 2] as number;
      if (skip < length) return (this.#offset[at] as number) + skip;
      skip -= length;
      at++;
    }
  }

  #append(chain: DescriptorChain, segments: number): void {
    if (this.#segmentTail + segments > PLACES || this.#tail === PLACES) this.#moveToFront();
    const first = chain.readable;
    const { iovec } = chain;
    let length = 0;
    for (let i = 0; i < segments; i++) {
      const from = (first + i) * IOVEC_WORDS;
      const to = (this.#segmentTail + i) * IOVEC_WORDS;
      this.#offset[this.#segmentTail + i] = chain.offset[first + i] as number;
      this.#iovec[to] = iovec[from] as number;
      this.#iovec[to + 1] = iovec[from + 1] as number;
      this.#iovec[to + 2] = iovec[from + 2] as number;
      this.#iovec[to + 3] = 0;
      length += iovec[from + 2] as number;
    }
    const at = this.#tail++;
    this.#id[at] = chain.id;
    this.#slots[at] = chain.slots;
    this.#length[at] = length;
    this.#segments[at] = segments;
    this.#segmentTail += segments;
    this.bytes += length;
  }

  #moveToFront(): void {
    this.#id.copyWithin(0, this.#head, this.#tail);
    this.#slots.copyWithin(0, this.#head, this.#tail);
    this.#length.copyWithin(0, this.#head, this.#tail);
    this.#segments.copyWithin(0, this.#head, this.#tail);
    this.#tail -= this.#head;
    this.#head = 0;
    this.#offset.copyWithin(0, this.#segmentHead, this.#segmentTail);
    this.#iovec.copyWithin(0, this.#segmentHead * IOVEC_WORDS, this.#segmentTail * IOVEC_WORDS);
    this.#segmentTail -= this.#segmentHead;
    this.#segmentHead = 0;
  }
}
