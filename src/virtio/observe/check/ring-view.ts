/** The checker's view of a queue's rings, independent of the handler, in either format. */
import * as abi from '../../../abi/virtio-ring.ts';
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import { locateRings } from '../../queue/create-virtqueue.ts';
import type { QueueConfig } from '../../queue/virtqueue.ts';
import { type Rule, rules } from './rules.ts';

/** A chain that was taken, as the driver wrote it. */
export interface TakenChain {
  /** Indices of its descriptors, when no other chain may use them before it is used. */
  readonly descriptors: readonly number[];
  /** A rule that its descriptors break. */
  readonly fault: Rule | undefined;
  /** Descriptors that must not change: their location in RAM, and the bytes. */
  readonly kept: readonly { readonly offset: number; readonly bytes: Uint8Array }[];
}

/** Reads only; what it reads may change at any time. */
export interface RingView {
  /** True when the driver has made a chain available at this place. */
  isAvailable(nextAvail: number): boolean;
  /** The rule that the driver breaks when it enables or disables interrupts. */
  suppressionFault(): Rule | undefined;
  /** The chain that starts at this place. @param slots of the ring that it takes */
  taken(nextAvail: number, slots: number): TakenChain;
}

/** Bytes of an indirect table that are kept to compare. */
const TABLE_LIMIT = 1024;

/** @throws PeerError as `createVirtqueue` does */
export function openRingView(memory: GuestMemory, config: QueueConfig, features: bigint): RingView {
  const { state: _, ...fresh } = config;
  const place = locateRings(memory, fresh, features);
  const eventIdx = abi.hasFeature(features, abi.VIRTIO_F_EVENT_IDX);
  return abi.hasFeature(features, abi.VIRTIO_F_RING_PACKED)
    ? new PackedView(memory, place.descriptor, place.driver, config.size, eventIdx)
    : new SplitView(
        memory,
        place.descriptor,
        place.driver,
        config.size,
        eventIdx,
        abi.hasFeature(features, abi.VIRTIO_F_IN_ORDER),
      );
}

const SPLIT_FLAGS = abi.VIRTQ_DESC_F_NEXT | abi.VIRTQ_DESC_F_WRITE | abi.VIRTQ_DESC_F_INDIRECT;
const PACKED_FLAGS = SPLIT_FLAGS | abi.VIRTQ_DESC_F_AVAIL | abi.VIRTQ_DESC_F_USED;

class SplitView implements RingView {
  readonly #memory: GuestMemory;
  readonly #table: number;
  readonly #avail: number;
  readonly #size: number;
  readonly #eventIdx: boolean;
  readonly #inOrder: boolean;

  constructor(
    memory: GuestMemory,
    table: number,
    avail: number,
    size: number,
    eventIdx: boolean,
    inOrder: boolean,
  ) {
    this.#memory = memory;
    this.#table = table;
    this.#avail = avail;
    this.#size = size;
    this.#eventIdx = eventIdx;
    this.#inOrder = inOrder;
  }

  isAvailable(nextAvail: number): boolean {
    return this.#memory.readU16(this.#avail + 2) !== nextAvail;
  }

  suppressionFault(): Rule | undefined {
    const flags = this.#memory.readU16(this.#avail);
    return flags > (this.#eventIdx ? 0 : 1) ? rules.availFlags : undefined;
  }

  taken(nextAvail: number): TakenChain {
    const memory = this.#memory;
    const slot = nextAvail & (this.#size - 1);
    let index = memory.readU16(this.#avail + 4 + 2 * slot);
    const descriptors: number[] = [];
    const kept: { offset: number; bytes: Uint8Array }[] = [];
    let fault: Rule | undefined;
    while (index < this.#size && descriptors.length < this.#size) {
      const at = this.#table + index * abi.virtq_desc.size;
      const flags = memory.readU16(at + abi.virtq_desc.flags.offset);
      descriptors.push(index);
      kept.push(keep(memory, at, abi.virtq_desc.size));
      if ((flags & ~SPLIT_FLAGS) !== 0) fault ??= rules.descriptorFlags;
      if ((flags & abi.VIRTQ_DESC_F_INDIRECT) !== 0) kept.push(...keepTable(memory, at));
      if ((flags & abi.VIRTQ_DESC_F_NEXT) === 0 || (flags & abi.VIRTQ_DESC_F_INDIRECT) !== 0) break;
      const next = memory.readU16(at + abi.virtq_desc.next.offset);
      if (this.#inOrder && next !== (index + 1) % this.#size) fault ??= rules.inOrderNext;
      index = next;
    }
    return { descriptors, fault, kept };
  }
}

class PackedView implements RingView {
  readonly #memory: GuestMemory;
  readonly #ring: number;
  readonly #driverEvent: number;
  readonly #size: number;
  readonly #eventIdx: boolean;

  constructor(
    memory: GuestMemory,
    ring: number,
    driverEvent: number,
    size: number,
    eventIdx: boolean,
  ) {
    this.#memory = memory;
    this.#ring = ring;
    this.#driverEvent = driverEvent;
    this.#size = size;
    this.#eventIdx = eventIdx;
  }

  isAvailable(nextAvail: number): boolean {
    const flags = this.#flags(nextAvail & 0x7fff);
    const wrap = nextAvail >>> 15;
    const available = (flags & abi.VIRTQ_DESC_F_AVAIL) === 0 ? 0 : 1;
    const used = (flags & abi.VIRTQ_DESC_F_USED) === 0 ? 0 : 1;
    return available === wrap && used !== wrap;
  }

  suppressionFault(): Rule | undefined {
    const flags = this.#memory.readU16(this.#driverEvent + 2) & 3;
    const known = this.#eventIdx ? abi.RING_EVENT_FLAGS_DESC : abi.RING_EVENT_FLAGS_DESC - 1;
    return flags > known ? rules.eventFlags : undefined;
  }

  taken(nextAvail: number, slots: number): TakenChain {
    let fault: Rule | undefined;
    const kept: { offset: number; bytes: Uint8Array }[] = [];
    let index = nextAvail & 0x7fff;
    for (let i = 0; i < slots; i++) {
      const flags = this.#flags(index);
      if ((flags & ~PACKED_FLAGS) !== 0) fault ??= rules.descriptorFlags;
      if ((flags & abi.VIRTQ_DESC_F_INDIRECT) !== 0) {
        kept.push(...keepTable(this.#memory, this.#ring + index * abi.virtq_desc.size));
      }
      index = index + 1 === this.#size ? 0 : index + 1;
    }
    // The ring's own descriptors are the device's to overwrite: used ones come in the order of use.
    return { descriptors: [], fault, kept };
  }

  #flags(index: number): number {
    return this.#memory.readU16(this.#ring + index * abi.virtq_desc.size + 14);
  }
}

function keep(memory: GuestMemory, offset: number, length: number) {
  return { offset, bytes: Uint8Array.from(memory.bytes(offset, length)) };
}

/** The indirect table that a descriptor points to: both formats have address and length first. */
function keepTable(memory: GuestMemory, descriptor: number) {
  const length = memory.readU32(descriptor + abi.virtq_desc.len.offset);
  const offset = memory.offset(memory.readU64(descriptor), length);
  return offset < 0 ? [] : [keep(memory, offset, Math.min(length, TABLE_LIMIT))];
}

/** True when the bytes that must not change are unchanged. */
export function isUnchanged(memory: GuestMemory, { kept }: TakenChain): boolean {
  return kept.every(({ offset, bytes }) => {
    const now = memory.bytes(offset, bytes.length);
    return bytes.every((byte, i) => byte === now[i]);
  });
}
