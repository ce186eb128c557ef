/**
 * The record of a packed queue (vhost-user.rst, "Inflight I/O tracking", for packed virtqueues).
 * It holds the descriptors too: used ones are written over those in the ring.
 *
 * HOT: `taken`, `push`, `publish`.
 */
import { DescStatePacked } from '../../../abi/vhost-user.ts';
import type { DescriptorChain } from '../descriptor-chain.ts';
import type { Virtqueue } from '../virtqueue.ts';
import { PACKED, type PackedRecovery, usedPositions } from './inflight-packed.ts';
import type { InflightRegion } from './inflight-region.ts';
import { type Leftover, TrackedQueue } from './tracked-queue.ts';

const HEAD = PACKED.head;
const ENTRY = PACKED.entry;
/** Of the region's head: `free_head` below, `old_free_head` above; in 32-bit words. */
const FREE_HEADS = PACKED.freeHead / 2;
/** Of an entry, in bytes, 16-bit and 32-bit words. */
const INFLIGHT = HEAD + DescStatePacked.inflight.offset;
const NEXT = (HEAD + DescStatePacked.next.offset) / 2;
/** `last` below, `num` above. */
const LAST_AND_NUM = (HEAD + DescStatePacked.last.offset) / 4;
const COUNTER = (HEAD + DescStatePacked.counter.offset) / 4;
/** `id` below, `flags` above, as in the ring. */
const ID_AND_FLAGS = (HEAD + DescStatePacked.id.offset) / 4;
const LEN = (HEAD + DescStatePacked.len.offset) / 4;
const ADDR = (HEAD + DescStatePacked.addr.offset) / 4;

/** A packed queue and its record. A chain's `id` is the buffer's, with its entry in bits 16 and up. */
export class TrackedPackedQueue extends TrackedQueue {
  readonly #bytes: Uint8Array;
  readonly #halves: Uint16Array;
  readonly #words: Uint32Array;
  readonly #doubles: Float64Array;
  /** The descriptor ring, and where the queue's next list starts. */
  readonly #ring: Uint32Array;
  #place: number;
  /** The record's contents for its lists, as we wrote them: it is not read again. */
  readonly #next: Uint16Array;
  readonly #last: Uint16Array;
  #free: number;
  #used: number;
  #usedWrap: number;
  /** Entries pushed since `publish`, and the ring slots of their lists. */
  readonly #batch: Uint16Array;
  #batchLength = 0;
  #batchSlots = 0;
  #counter: number;
  /** First entries of the lists that were left over, as they are taken again. */
  readonly #again: readonly number[];
  #takenAgain = 0;

  /** @param ring the descriptor ring */
  constructor(
    queue: Virtqueue,
    region: InflightRegion,
    ring: Uint32Array,
    { lists, state, counter }: PackedRecovery,
    leftover?: Leftover,
  ) {
    super(queue, leftover);
    this.#bytes = region.bytes;
    this.#halves = region.halves;
    this.#words = region.words;
    this.#doubles = region.doubles;
    this.#ring = ring;
    this.#place = state.nextAvail & 0x7fff;
    this.#used = state.nextUsed & 0x7fff;
    this.#usedWrap = state.nextUsed >>> 15;
    this.#next = new Uint16Array(region.entries);
    this.#last = new Uint16Array(region.entries);
    this.#batch = new Uint16Array(queue.size);
    this.#counter = counter;
    this.#free = region.halves[PACKED.freeHead] as number;
    for (let entry = 0; entry < region.entries; entry++) {
      this.#next[entry] = region.halves[NEXT + (ENTRY / 2) * entry] as number;
    }
    for (const { entries } of lists) this.#last[entries[0] ?? 0] = entries.at(-1) ?? 0;
    this.#again = lists.map(({ entries }) => entries[0] ?? 0);
  }

  protected taken(chain: DescriptorChain): void {
    const { slots } = chain;
    const head = this.#free;
    const at = (ENTRY / 4) * head;
    this.#words[LAST_AND_NUM + at] = 0;
    const counter = this.#counter++;
    this.#words[COUNTER + at] = counter;
    this.#words[COUNTER + at + 1] = counter / 2 ** 32;
    this.#bytes[INFLIGHT + ENTRY * head] = 1;
    let entry = head;
    let last = head;
    for (let i = 0; i < slots; i++) {
      last = entry;
      this.#copy(last);
      entry = this.#next[last] as number;
      if (++this.#place === this.size) this.#place = 0;
    }
    this.#words[LAST_AND_NUM + at] = last | (slots << 16);
    this.#last[head] = last;
    this.#setFree(entry);
    chain.id |= head << 16;
  }

  protected takenAgain(chain: DescriptorChain): void {
    chain.id |= (this.#again[this.#takenAgain++] ?? 0) << 16;
  }

  protected givenBack({ id, slots }: DescriptorChain): void {
    const entry = id >>> 16;
    this.#link(entry);
    this.#setFree(entry);
    this.#bytes[INFLIGHT + ENTRY * entry] = 0;
    this.#place -= slots;
    if (this.#place < 0) this.#place += this.size;
  }

  protected givenBackAgain(): void {
    this.#takenAgain--;
  }

  push(id: number, slots: number, written: number): void {
    this.#batch[this.#batchLength++] = id >>> 16;
    this.#batchSlots += slots;
    this.queue.push(id & 0xffff, slots, written);
  }

  publish(): boolean {
    const length = this.#batchLength;
    if (length === 0) return this.queue.publish();
    this.#batchLength = 0;
    for (let i = 0; i < length; i++) {
      const entry = this.#batch[i] as number;
      this.#link(entry);
      this.#free = entry;
    }
    this.#halves[PACKED.freeHead] = this.#free;
    const before = this.#used;
    const wrapBefore = this.#usedWrap;
    this.#used += this.#batchSlots;
    this.#batchSlots = 0;
    if (this.#used >= this.size) {
      this.#used -= this.size;
      this.#usedWrap ^= 1;
    }
    this.#setPositions(before, wrapBefore);
    const interrupt = this.queue.publish();
    for (let i = 0; i < length; i++) {
      this.#bytes[INFLIGHT + ENTRY * (this.#batch[i] as number)] = 0;
    }
    // Before the positions: as long as those differ, the driver's ring shows which head is valid.
    this.#setFree(this.#free);
    this.#setPositions(this.#used, this.#usedWrap);
    return interrupt;
  }

  /** Records the ring's descriptor at `#place`. */
  #copy(entry: number): void {
    const to = (ENTRY / 4) * entry;
    const from = this.#place * 4;
    this.#words[ADDR + to] = this.#ring[from] as number;
    this.#words[ADDR + to + 1] = this.#ring[from + 1] as number;
    this.#words[LEN + to] = this.#ring[from + 2] as number;
    this.#words[ID_AND_FLAGS + to] = this.#ring[from + 3] as number;
  }

  /** Links a list of entries to the free ones; it joins them once it is their head. */
  #link(entry: number): void {
    const last = this.#last[entry] as number;
    this.#next[last] = this.#free;
    this.#halves[NEXT + (ENTRY / 2) * last] = this.#free;
  }

  /** Both heads of the free entries, in one store. */
  #setFree(entry: number): void {
    this.#free = entry;
    this.#words[FREE_HEADS] = entry | (entry << 16);
  }

  #setPositions(before: number, wrapBefore: number): void {
    this.#doubles[PACKED.positions] = usedPositions(this.#used, this.#usedWrap, before, wrapBefore);
  }
}
