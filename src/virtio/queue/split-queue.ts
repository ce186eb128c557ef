/**
 * Device side of a split virtqueue (virtio 1.3 §2.7).
 *
 * HOT, measured by bench/groups/queue-walk.ts. The rings are small typed-array windows over guest RAM.
 * Each field that the driver can change is read once. Atomics are used where §2.7.13 and §2.7.14 require
 * a barrier, and nowhere else: one load of the available index and one store of the used index a
 * batch, and a pair around each of the notification suppression fields.
 */
import {
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED_F_NO_NOTIFY,
  virtq_desc,
} from '../../abi/virtio-ring.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { DescriptorChain } from './descriptor-chain.ts';
import { InOrderList } from './in-order-list.ts';
import type { RingFeatures, RingWindows } from './ring-windows.ts';
import {
  addressFault,
  FAULT_CHAIN_LOOP,
  FAULT_EMPTY_CHAIN,
  FAULT_HEAD_RANGE,
  FAULT_INDEX_JUMP,
  FAULT_INDIRECT,
  POP_CHAIN,
  type QueueConfig,
  type Virtqueue,
  type VringState,
} from './virtqueue.ts';

/** Places in `struct virtq_avail` and `struct virtq_used`, in 16-bit words. */
const FLAGS = 0;
const IDX = 1;
const AVAIL_RING = 2;
/** Flags of a descriptor that is not a whole chain. */
const MORE = VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_INDIRECT;

/** A split virtqueue being served. */
export class SplitQueue implements Virtqueue {
  readonly index: number;
  readonly size: number;
  readonly #memory: GuestMemory;
  readonly #desc: Uint32Array;
  readonly #avail: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedWords: Uint32Array;
  readonly #mask: number;
  readonly #usedEvent: number;
  readonly #availEvent: number;
  readonly #indirect: boolean;
  readonly #eventIdx: boolean;
  readonly #inOrder: InOrderList | null;
  /** The next available entry to take, and the available index as last read: both wrap at 2^16. */
  #nextAvail = 0;
  #availIdx = 0;
  /** The next used entry to write, and the used index as the driver sees it. */
  #nextUsed = 0;
  #publishedUsed = 0;
  #fault = 0;
  #kicksSuppressed = false;
  /** The device enabled notifications. */
  #kicksWanted = true;

  /** The windows were checked by `createVirtqueue`. */
  constructor(
    memory: GuestMemory,
    config: QueueConfig,
    features: RingFeatures,
    windows: RingWindows,
  ) {
    const { size } = config;
    this.index = config.index;
    this.size = size;
    this.#memory = memory;
    this.#desc = windows.descriptor.words;
    this.#avail = windows.driver.halves;
    this.#used = windows.device.halves;
    this.#usedWords = windows.device.words;
    this.#mask = size - 1;
    this.#usedEvent = AVAIL_RING + size;
    this.#availEvent = 2 + 4 * size;
    this.#indirect = features.indirect;
    this.#eventIdx = features.eventIdx;
    this.#inOrder = features.inOrder ? new InOrderList(size) : null;
    this.#nextAvail = config.state?.nextAvail ?? 0;
    this.#nextUsed = config.state?.nextUsed ?? 0;
    this.#availIdx = this.#nextAvail;
    this.#publishedUsed = this.#nextUsed;
    this.#used[FLAGS] = 0;
    this.enableKicks();
  }

  pop(chain: DescriptorChain): number {
    const at = this.#nextAvail;
    if (at === this.#availIdx && !this.#refresh()) return this.#fault;
    const head = this.#avail[AVAIL_RING + (at & this.#mask)] as number;
    if (head >= this.size) return this.#break(FAULT_HEAD_RANGE);
    const word = head * 4;
    const flagsAndNext = (this.#desc[word + 3] as number) | 0;
    const fault =
      (flagsAndNext & MORE) !== 0
        ? this.#walk(chain, head, flagsAndNext)
        : chain.fill(
            (this.#desc[word] as number) | 0,
            (this.#desc[word + 1] as number) | 0,
            (this.#desc[word + 2] as number) | 0,
            (flagsAndNext & VIRTQ_DESC_F_WRITE) !== 0,
          );
    if (fault < 0) return this.#break(fault);
    chain.id = this.#inOrder === null ? head : this.#inOrder.add(head, 1, chain.writableLength);
    this.#nextAvail = (at + 1) & 0xffff;
    return POP_CHAIN;
  }

  undoPop(_chain: DescriptorChain): void {
    if (this.#inOrder !== null) this.#inOrder.removeLast();
    this.#nextAvail = (this.#nextAvail - 1) & 0xffff;
    if (this.#fault < 0) this.#availIdx = this.#nextAvail;
  }

  push(id: number, _slots: number, written: number): void {
    if (this.#inOrder === null) this.#write(id, 1, written);
    else this.#inOrder.complete(id, written);
  }

  publish(): boolean {
    const inOrder = this.#inOrder;
    if (inOrder !== null) {
      while (inOrder.takeBatch()) this.#write(inOrder.id, inOrder.chains, inOrder.written);
    }
    const before = this.#publishedUsed;
    const now = this.#nextUsed;
    if (now === before) return false;
    this.#publishedUsed = now;
    // §2.7.8.2: the elements before the index. Sequentially consistent, so it is also ahead of the
    // load below: the driver writes used_event (or flags), then looks at the index again (§2.7.14).
    Atomics.store(this.#used, IDX, now);
    if (!this.#eventIdx) {
      return (Atomics.load(this.#avail, FLAGS) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0;
    }
    const event = Atomics.load(this.#avail, this.#usedEvent);
    return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff);
  }

  enableKicks(): boolean {
    this.#kicksWanted = true;
    if (this.#kicksSuppressed) return this.#refresh();
    // Ahead of the load in #refresh: the driver writes the available index, then looks at
    // avail_event (or flags), §2.7.13.4.1.
    if (this.#eventIdx) Atomics.store(this.#used, this.#availEvent, this.#nextAvail);
    else Atomics.store(this.#used, FLAGS, 0);
    return this.#refresh();
  }

  suppressKicks(suppressed: boolean): boolean {
    this.#kicksSuppressed = suppressed;
    if (!suppressed) return this.#kicksWanted && this.enableKicks();
    // avail_event behind the index is not passed again for 65536 entries (§2.7.10).
    if (this.#eventIdx) this.#used[this.#availEvent] = this.#nextAvail - 1;
    else this.#used[FLAGS] = VIRTQ_USED_F_NO_NOTIFY;
    return false;
  }

  peekAvailable(): number {
    return Atomics.load(this.#avail, IDX);
  }

  disableKicks(): void {
    this.#kicksWanted = false;
    // §2.7.10.2: with VIRTIO_F_EVENT_IDX flags stay 0; avail_event, left behind, does the same.
    if (!this.#eventIdx) this.#used[FLAGS] = VIRTQ_USED_F_NO_NOTIFY;
  }

  state(): VringState {
    return { nextAvail: this.#nextAvail, nextUsed: this.#nextUsed };
  }

  /** Reads the available index. Returns true when there is a chain to take, or a fault to report. */
  #refresh(): boolean {
    if (this.#fault < 0) return false;
    // §2.7.13 step 4: pairs with the driver's barrier between ring entries and index.
    const idx = Atomics.load(this.#avail, IDX);
    const available = (idx - this.#nextAvail) & 0xffff;
    const inFlight = (this.#nextAvail - this.#nextUsed) & 0xffff;
    // Also when the driver decremented the index (§2.7.6.1).
    if (available + inFlight > this.size) {
      this.#break(FAULT_INDEX_JUMP);
      return false;
    }
    this.#availIdx = idx;
    return available !== 0;
  }

  /** Breaks the queue: from now on `pop` finds no entry cached, and #refresh none to read. */
  #break(fault: number): number {
    this.#fault = fault;
    this.#availIdx = this.#nextAvail;
    return fault;
  }

  #write(id: number, chains: number, written: number): void {
    const word = 1 + (this.#nextUsed & this.#mask) * 2;
    this.#usedWords[word] = id;
    this.#usedWords[word + 1] = written;
    this.#nextUsed = (this.#nextUsed + chains) & 0xffff;
  }

  /** Walks a chain of several descriptors, or a table. @param first the first one's last word */
  #walk(chain: DescriptorChain, head: number, first: number): number {
    const desc = this.#desc;
    let index = head;
    let flagsAndNext = first;
    chain.clear();
    for (let budget = this.size; budget > 0; budget--) {
      const word = index * 4;
      const low = (desc[word] as number) | 0;
      const high = (desc[word + 1] as number) | 0;
      const length = (desc[word + 2] as number) | 0;
      if ((flagsAndNext & VIRTQ_DESC_F_INDIRECT) !== 0) {
        // §2.7.5.3.1 forbids NEXT with it; §2.7.5.3.2 lets it end a chain, and ignores WRITE.
        if (!this.#indirect || (flagsAndNext & VIRTQ_DESC_F_NEXT) !== 0) return FAULT_INDIRECT;
        return this.#walkIndirect(chain, low, high, length);
      }
      const fault = chain.add(low, high, length, (flagsAndNext & VIRTQ_DESC_F_WRITE) !== 0);
      if (fault < 0) return fault;
      if ((flagsAndNext & VIRTQ_DESC_F_NEXT) === 0) return 0;
      index = flagsAndNext >>> 16;
      if (index >= this.size) return FAULT_HEAD_RANGE;
      flagsAndNext = (desc[index * 4 + 3] as number) | 0;
    }
    return FAULT_CHAIN_LOOP;
  }

  #walkIndirect(chain: DescriptorChain, low: number, high: number, length: number): number {
    if (length === 0) return FAULT_EMPTY_CHAIN;
    if (length % virtq_desc.size !== 0) return FAULT_INDIRECT;
    const chunk = this.#memory.locate(low, high, length, false);
    if (chunk < 0) return addressFault(this.#memory, FAULT_INDIRECT);
    const view = this.#memory.chunkView(chunk);
    const table = this.#memory.position;
    const entries = (length >>> 0) / virtq_desc.size;
    let index = 0;
    for (let budget = Math.min(entries, chain.capacity); budget > 0; budget--) {
      const at = table + index * virtq_desc.size;
      const flagsAndNext = view.getInt32(at + 12, true);
      if ((flagsAndNext & VIRTQ_DESC_F_INDIRECT) !== 0) return FAULT_INDIRECT;
      const fault = chain.add(
        view.getInt32(at, true),
        view.getInt32(at + 4, true),
        view.getInt32(at + 8, true),
        (flagsAndNext & VIRTQ_DESC_F_WRITE) !== 0,
      );
      if (fault < 0) return fault;
      if ((flagsAndNext & VIRTQ_DESC_F_NEXT) === 0) return 0;
      index = flagsAndNext >>> 16;
      if (index >= entries) return FAULT_HEAD_RANGE;
    }
    return FAULT_CHAIN_LOOP;
  }
}
