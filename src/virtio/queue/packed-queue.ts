/**
 * Device side of a packed virtqueue (virtio 1.3 §2.8).
 *
 * HOT, measured by bench/groups/queue-walk.ts. The ring is a small typed-array window over guest RAM.
 * Each word that the driver can change is read once. Atomics are used where §2.8.21 and §2.8.22 require
 * a barrier between stores and loads: one store of a batch's first flags, and a pair around each of
 * the event suppression structures. Between the load of a list's first flags and the loads of the
 * rest behind it, x86-64 keeps the order; Atomics.load is a call of 9 ns in Node 20.
 */
import {
  pvirtq_desc,
  RING_EVENT_FLAGS_DESC,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_USED,
  VIRTQ_DESC_F_WRITE,
} from '../../abi/virtio-ring.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import type { DescriptorChain } from './descriptor-chain.ts';
import { InOrderList } from './in-order-list.ts';
import type { RingFeatures, RingWindows } from './ring-windows.ts';
import {
  addressFault,
  FAULT_CHAIN_LOOP,
  FAULT_EMPTY_CHAIN,
  FAULT_INDEX_JUMP,
  FAULT_INDIRECT,
  FAULT_NOT_AVAILABLE,
  POP_CHAIN,
  type QueueConfig,
  type Virtqueue,
  type VringState,
} from './virtqueue.ts';

/** A descriptor's last 32-bit word: id below, flags above; so the flags' bits lie 16 higher. */
const FLAGS_SHIFT = 16;
const NEXT = VIRTQ_DESC_F_NEXT << FLAGS_SHIFT;
const WRITE = VIRTQ_DESC_F_WRITE << FLAGS_SHIFT;
const INDIRECT = VIRTQ_DESC_F_INDIRECT << FLAGS_SHIFT;
/** Flags of a descriptor that is not a whole list. */
const MORE = NEXT | INDIRECT;
/** §2.8.1: the pair of flags shows whether a descriptor is available or used, in which lap. */
const LAP_FLAGS = (VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED) << FLAGS_SHIFT;
const AVAIL_LAP_1 = VIRTQ_DESC_F_AVAIL << FLAGS_SHIFT;
const AVAIL_LAP_0 = VIRTQ_DESC_F_USED << FLAGS_SHIFT;
const USED_LAP_1 = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED;
/** Bit 15 of a position: the wrap counter. */
const WRAP = 0x8000;
const RESERVED_EVENT_FLAGS = 3;

/** A packed virtqueue being served. */
export class PackedQueue implements Virtqueue {
  readonly index: number;
  readonly size: number;
  readonly #memory: GuestMemory;
  readonly #ring: Uint32Array;
  readonly #ringHalves: Uint16Array;
  readonly #driverEvent: Uint32Array;
  readonly #deviceEvent: Uint32Array;
  readonly #indirect: boolean;
  readonly #eventIdx: boolean;
  readonly #inOrder: InOrderList | null;
  /** Where the next list starts, with the driver's wrap counter, 0 or WRAP. */
  #nextAvail = 0;
  #availWrap = WRAP;
  /** Where the next used descriptor goes, with the device's wrap counter. */
  #nextUsed = 0;
  #usedWrap = WRAP;
  /** Slots of popped lists whose used descriptor is not written. */
  #inFlight = 0;
  /** The used descriptors written since `publish`: slots, and the first one's place and flags. */
  #pending = 0;
  #firstPlace = 0;
  #firstFlags = 0;
  #fault = 0;
  #kicksSuppressed = false;
  /** The device enabled notifications. */
  #kicksWanted = true;
  /** Lists taken so far, in 30 bits. */
  #taken = 0;

  /** The windows were checked by `createVirtqueue`. */
  constructor(
    memory: GuestMemory,
    config: QueueConfig,
    features: RingFeatures,
    windows: RingWindows,
  ) {
    this.index = config.index;
    this.size = config.size;
    this.#memory = memory;
    this.#ring = windows.descriptor.words;
    this.#ringHalves = windows.descriptor.halves;
    this.#driverEvent = windows.driver.words;
    this.#deviceEvent = windows.device.words;
    this.#indirect = features.indirect;
    this.#eventIdx = features.eventIdx;
    this.#inOrder = features.inOrder ? new InOrderList(config.size) : null;
    const { nextAvail, nextUsed } = config.state ?? { nextAvail: WRAP, nextUsed: WRAP };
    this.#nextAvail = nextAvail & ~WRAP;
    this.#availWrap = nextAvail & WRAP;
    this.#nextUsed = nextUsed & ~WRAP;
    this.#usedWrap = nextUsed & WRAP;
    this.#inFlight = packedInFlight({ nextAvail, nextUsed }, config.size);
    this.enableKicks();
  }

  pop(chain: DescriptorChain): number {
    // §2.8.21.1.1: pairs with the driver's barrier before the first descriptor's flags.
    const first = (this.#ring[this.#nextAvail * 4 + 3] as number) | 0;
    if ((first & LAP_FLAGS) !== lapFlags(this.#availWrap) || this.#fault < 0) return this.#fault;
    const fault = (first & MORE) === 0 ? this.#popOne(chain, first) : this.#popMore(chain, first);
    if (fault < 0) return this.#break(fault);
    if (this.#inFlight + chain.slots > this.size) return this.#break(FAULT_INDEX_JUMP);
    if (this.#inOrder !== null) {
      chain.id = this.#inOrder.add(chain.id, chain.slots, chain.writableLength);
    }
    this.#taken = (this.#taken + 1) & 0x3fff_ffff;
    this.#inFlight += chain.slots;
    this.#nextAvail += chain.slots;
    if (this.#nextAvail >= this.size) {
      this.#nextAvail -= this.size;
      this.#availWrap ^= WRAP;
    }
    return POP_CHAIN;
  }

  undoPop(chain: DescriptorChain): void {
    if (this.#inOrder !== null) this.#inOrder.removeLast();
    this.#inFlight -= chain.slots;
    this.#nextAvail -= chain.slots;
    if (this.#nextAvail < 0) {
      this.#nextAvail += this.size;
      this.#availWrap ^= WRAP;
    }
  }

  push(id: number, slots: number, written: number): void {
    if (this.#inOrder === null) this.#write(id, slots, written);
    else this.#inOrder.complete(id, written);
  }

  publish(): boolean {
    const inOrder = this.#inOrder;
    if (inOrder !== null) {
      while (inOrder.takeBatch()) this.#write(inOrder.id, inOrder.slots, inOrder.written);
    }
    const pending = this.#pending;
    if (pending === 0) return false;
    this.#pending = 0;
    // §2.8.22: the driver looks at this descriptor only, until it is used; so its flags come after
    // everything else. Sequentially consistent, so they are also ahead of the load below.
    Atomics.store(this.#ringHalves, this.#firstPlace * 8 + 7, this.#firstFlags);
    const event = Atomics.load(this.#driverEvent, 0);
    const flags = (event >>> 16) & RESERVED_EVENT_FLAGS;
    if (flags === RING_EVENT_FLAGS_DISABLE) return false;
    if (flags !== RING_EVENT_FLAGS_DESC || !this.#eventIdx) return true;
    const now = this.#nextUsed;
    let place = event & ~WRAP & 0xffff;
    if ((event & WRAP) !== this.#usedWrap) place -= this.size;
    return ((now - place - 1) & 0xffff) < pending;
  }

  enableKicks(): boolean {
    this.#kicksWanted = true;
    if (!this.#kicksSuppressed) {
      const word = this.#eventIdx
        ? (RING_EVENT_FLAGS_DESC << 16) | this.#availWrap | this.#nextAvail
        : RING_EVENT_FLAGS_ENABLE << 16;
      // Ahead of the load below: the driver makes a descriptor available, then looks here
      // (§2.8.21.3.1).
      Atomics.store(this.#deviceEvent, 0, word);
    }
    const first = Atomics.load(this.#ring, this.#nextAvail * 4 + 3);
    return (first & LAP_FLAGS) === lapFlags(this.#availWrap) && this.#fault === 0;
  }

  suppressKicks(suppressed: boolean): boolean {
    this.#kicksSuppressed = suppressed;
    if (!suppressed) return this.#kicksWanted && this.enableKicks();
    this.#deviceEvent[0] = RING_EVENT_FLAGS_DISABLE << 16;
    return false;
  }

  /** The next list, if it is available. */
  peekAvailable(): number {
    const first = Atomics.load(this.#ring, this.#nextAvail * 4 + 3);
    return (first & LAP_FLAGS) === lapFlags(this.#availWrap) ? this.#taken : -1;
  }

  disableKicks(): void {
    this.#kicksWanted = false;
    this.#deviceEvent[0] = RING_EVENT_FLAGS_DISABLE << 16;
  }

  state(): VringState {
    return {
      nextAvail: this.#nextAvail | this.#availWrap,
      nextUsed: this.#nextUsed | this.#usedWrap,
    };
  }

  #break(fault: number): number {
    this.#fault = fault;
    return fault;
  }

  /** Writes a used descriptor; the first one's flags of a batch wait for `publish`. */
  #write(id: number, slots: number, written: number): void {
    const place = this.#nextUsed;
    // §2.8.3: WRITE shows whether anything was written, and so whether the length counts (§2.8.4).
    const flags = (this.#usedWrap === 0 ? 0 : USED_LAP_1) | (written > 0 ? VIRTQ_DESC_F_WRITE : 0);
    this.#ring[place * 4 + 2] = written;
    if (this.#pending === 0) {
      this.#ringHalves[place * 8 + 6] = id;
      this.#firstPlace = place;
      this.#firstFlags = flags;
    } else {
      this.#ring[place * 4 + 3] = id | (flags << FLAGS_SHIFT);
    }
    this.#pending += slots;
    this.#inFlight -= slots;
    this.#nextUsed = place + slots;
    if (this.#nextUsed >= this.size) {
      this.#nextUsed -= this.size;
      this.#usedWrap ^= WRAP;
    }
  }

  /** @param first the only descriptor's id and flags */
  #popOne(chain: DescriptorChain, first: number): number {
    const ring = this.#ring;
    const word = this.#nextAvail * 4;
    chain.id = first & 0xffff;
    return chain.fill(
      (ring[word] as number) | 0,
      (ring[word + 1] as number) | 0,
      (ring[word + 2] as number) | 0,
      (first & WRITE) !== 0,
    );
  }

  #popMore(chain: DescriptorChain, first: number): number {
    chain.clear();
    return (first & INDIRECT) !== 0 ? this.#popTable(chain, first) : this.#popList(chain, first);
  }

  /** Walks a list of direct descriptors, §2.8.6. @param first the first one's id and flags */
  #popList(chain: DescriptorChain, first: number): number {
    const ring = this.#ring;
    let place = this.#nextAvail;
    let lap = lapFlags(this.#availWrap);
    let idAndFlags = first;
    for (let slots = 1; slots <= this.size; slots++) {
      const word = place * 4;
      const fault = chain.add(
        (ring[word] as number) | 0,
        (ring[word + 1] as number) | 0,
        (ring[word + 2] as number) | 0,
        (idAndFlags & WRITE) !== 0,
      );
      if (fault < 0) return fault;
      if ((idAndFlags & NEXT) === 0) {
        chain.id = idAndFlags & 0xffff;
        chain.slots = slots;
        return 0;
      }
      if (++place === this.size) {
        place = 0;
        lap ^= LAP_FLAGS;
      }
      idAndFlags = (ring[place * 4 + 3] as number) | 0;
      if ((idAndFlags & LAP_FLAGS) !== lap) return FAULT_NOT_AVAILABLE;
      if ((idAndFlags & INDIRECT) !== 0) return FAULT_INDIRECT;
    }
    return FAULT_CHAIN_LOOP;
  }

  /** Walks an indirect table, §2.8.7: flags other than WRITE, and ids, are ignored in it. */
  #popTable(chain: DescriptorChain, first: number): number {
    const ring = this.#ring;
    const word = this.#nextAvail * 4;
    const length = (ring[word + 2] as number) | 0;
    if (!this.#indirect || (first & NEXT) !== 0) return FAULT_INDIRECT;
    if (length === 0) return FAULT_EMPTY_CHAIN;
    if (length % pvirtq_desc.size !== 0) return FAULT_INDIRECT;
    if (length >>> 0 > chain.capacity * pvirtq_desc.size) return FAULT_CHAIN_LOOP;
    const chunk = this.#memory.locate(
      (ring[word] as number) | 0,
      (ring[word + 1] as number) | 0,
      length,
      false,
    );
    if (chunk < 0) return addressFault(this.#memory, FAULT_INDIRECT);
    const view = this.#memory.chunkView(chunk);
    const end = this.#memory.position + length;
    for (let at = end - length; at < end; at += pvirtq_desc.size) {
      const fault = chain.add(
        view.getInt32(at, true),
        view.getInt32(at + 4, true),
        view.getInt32(at + 8, true),
        (view.getUint16(at + 14, true) & VIRTQ_DESC_F_WRITE) !== 0,
      );
      if (fault < 0) return fault;
    }
    chain.id = first & 0xffff;
    return 0;
  }
}

/** An available descriptor's pair of flags in a given lap (§2.8.1). */
function lapFlags(wrap: number): number {
  return wrap === 0 ? AVAIL_LAP_0 : AVAIL_LAP_1;
}

/** Slots between the next used descriptor and the next available one: negative for an invalid state. */
export function packedInFlight({ nextAvail, nextUsed }: VringState, size: number): number {
  const ahead = (nextAvail & ~WRAP) - (nextUsed & ~WRAP);
  return ((nextAvail ^ nextUsed) & WRAP) === 0 ? ahead : ahead + size;
}
