/**
 * The record of a split queue (vhost-user.rst, "Inflight I/O tracking", for split virtqueues).
 *
 * HOT: `taken`, `push`, `publish`.
 */
import { DescStateSplit, QueueRegionSplit } from '../../../abi/vhost-user.ts';
import type { DescriptorChain } from '../descriptor-chain.ts';
import type { QueueConfig, Virtqueue, VringState } from '../virtqueue.ts';
import { badRecord, type InflightRegion } from './inflight-region.ts';
import { type Leftover, TrackedQueue } from './tracked-queue.ts';

/** Offsets in 16-bit words of the head, and in bytes, halves and words of an entry. */
const LAST_BATCH_HEAD = QueueRegionSplit.last_batch_head.offset / 2;
const USED_IDX = QueueRegionSplit.used_idx.offset / 2;
const HEAD = QueueRegionSplit.size;
const ENTRY = DescStateSplit.size;
const INFLIGHT = HEAD + DescStateSplit.inflight.offset;
const NEXT = (HEAD + DescStateSplit.next.offset) / 2;
const COUNTER = (HEAD + DescStateSplit.counter.offset) / 4;

/** The content of a record when a queue starts. */
export interface SplitRecovery {
  /** Heads that are in flight, the oldest first. */
  readonly heads: readonly number[];
  readonly state: VringState;
  /** Above that of all others. */
  readonly counter: number;
}

/**
 * Takes over a region that an earlier backend left, or initializes one.
 * @param usedIdx as the used ring has it
 * @throws PeerError when no backend can have left it
 */
export function recoverSplit(
  region: InflightRegion,
  { size, state }: QueueConfig,
  usedIdx: number,
): SplitRecovery {
  const { bytes, halves, words } = region;
  if (!region.isWritten) {
    const fresh = state ?? { nextAvail: 0, nextUsed: 0 };
    region.clear();
    halves[USED_IDX] = fresh.nextUsed;
    region.setWritten();
    return { heads: [], state: fresh, counter: 0 };
  }
  const batch = (usedIdx - (halves[USED_IDX] as number)) & 0xffff;
  if (batch > size) throw badRecord(`${batch} buffers were used since, of ${size}`);
  let used = halves[LAST_BATCH_HEAD] as number;
  for (let i = 0; i < batch; i++) {
    if (used >= size) throw badRecord(`used buffer ${used} is not one of ${size}`);
    bytes[INFLIGHT + ENTRY * used] = 0;
    used = halves[NEXT + (ENTRY / 2) * used] as number;
  }
  Atomics.store(halves, USED_IDX, usedIdx);
  const heads: { head: number; counter: number }[] = [];
  for (let head = 0; head < region.entries; head++) {
    if (bytes[INFLIGHT + ENTRY * head] === 0) continue;
    if (head >= size) throw badRecord(`buffer ${head} in flight is not one of ${size}`);
    const at = COUNTER + (ENTRY / 4) * head;
    heads.push({ head, counter: (words[at + 1] as number) * 2 ** 32 + (words[at] as number) });
  }
  heads.sort((a, b) => a.counter - b.counter);
  const counter = (heads.at(-1)?.counter ?? -1) + 1;
  if (counter > 2 ** 52) throw badRecord('more buffers were taken than time allows');
  const nextAvail = (usedIdx + heads.length) & 0xffff;
  return {
    heads: heads.map(({ head }) => head),
    state: { nextAvail, nextUsed: usedIdx },
    counter,
  };
}

/** A split queue and its record. */
export class TrackedSplitQueue extends TrackedQueue {
  readonly #bytes: Uint8Array;
  readonly #halves: Uint16Array;
  readonly #words: Uint32Array;
  /** Heads pushed since `publish`. Our own copy: the record is not read again. */
  readonly #batch: Uint16Array;
  #batchLength = 0;
  #lastBatchHead: number;
  #usedIdx: number;
  #counter: number;

  constructor(
    queue: Virtqueue,
    region: InflightRegion,
    { counter, state }: SplitRecovery,
    leftover?: Leftover,
  ) {
    super(queue, leftover);
    this.#bytes = region.bytes;
    this.#halves = region.halves;
    this.#words = region.words;
    this.#batch = new Uint16Array(queue.size);
    this.#lastBatchHead = region.halves[LAST_BATCH_HEAD] as number;
    this.#usedIdx = state.nextUsed;
    this.#counter = counter;
  }

  protected taken({ id }: DescriptorChain): void {
    const at = COUNTER + (ENTRY / 4) * id;
    const counter = this.#counter++;
    this.#words[at] = counter;
    this.#words[at + 1] = counter / 2 ** 32;
    this.#bytes[INFLIGHT + ENTRY * id] = 1;
  }

  /** It is recorded already, at its place among the others. */
  protected takenAgain(): void {}

  protected givenBack({ id }: DescriptorChain): void {
    this.#bytes[INFLIGHT + ENTRY * id] = 0;
  }

  protected givenBackAgain(): void {}

  push(id: number, slots: number, written: number): void {
    this.#halves[NEXT + (ENTRY / 2) * id] = this.#lastBatchHead;
    this.#halves[LAST_BATCH_HEAD] = id;
    this.#lastBatchHead = id;
    this.#batch[this.#batchLength++] = id;
    this.queue.push(id, slots, written);
  }

  publish(): boolean {
    const interrupt = this.queue.publish();
    const length = this.#batchLength;
    if (length === 0) return interrupt;
    this.#batchLength = 0;
    for (let i = 0; i < length; i++) {
      this.#bytes[INFLIGHT + ENTRY * (this.#batch[i] as number)] = 0;
    }
    this.#usedIdx = (this.#usedIdx + length) & 0xffff;
    // After the flags: otherwise a crash in between leaves flags of used chains.
    Atomics.store(this.#halves, USED_IDX, this.#usedIdx);
    return interrupt;
  }
}
