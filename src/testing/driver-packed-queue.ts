/** Driver side of a packed virtqueue (virtio 1.3 §2.8). */
import * as ring from '../abi/virtio-ring.ts';
import {
  type DriverBuffer,
  DriverQueue,
  type DriverQueueLayout,
  fullBarrier,
  type UsedBuffer,
} from './driver-queue.ts';

/** A place in the ring with its wrap counter (§2.8.1). */
class RingPosition {
  readonly #size: number;
  place = 0;
  wrap = 1;

  constructor(size: number) {
    this.#size = size;
  }

  advance(slots: number): void {
    this.place += slots;
    if (this.place < this.#size) return;
    this.place -= this.#size;
    this.wrap ^= 1;
  }

  get offAndWrap(): number {
    return this.place | (this.wrap << 15);
  }
}

/** See `DriverQueue`. */
export class DriverPackedQueue extends DriverQueue {
  readonly #freeIds: number[];
  /** How many descriptors of the ring a buffer in flight takes, by its ID. */
  readonly #counts = new Map<number, number>();
  readonly #avail: RingPosition;
  readonly #used: RingPosition;
  #free: number;
  #addedSinceKick = 0;

  constructor(layout: DriverQueueLayout) {
    super(layout);
    const { size } = layout.config;
    this.#freeIds = Array.from({ length: size }, (_, index) => index);
    this.#free = size;
    this.#avail = new RingPosition(size);
    this.#used = new RingPosition(size);
  }

  get free(): number {
    return this.#free;
  }

  kick(): boolean {
    const added = this.#addedSinceKick;
    this.#addedSinceKick = 0;
    if (added === 0) return false;
    fullBarrier();
    const flags = this.deviceArea.getUint16(ring.pvirtq_event_suppress.flags.offset, true) & 3;
    if (flags === ring.RING_EVENT_FLAGS_DISABLE) return false;
    if (flags !== ring.RING_EVENT_FLAGS_DESC) return true;
    const event = this.deviceArea.getUint16(ring.pvirtq_event_suppress.desc.offset, true);
    const lapBehind = event >>> 15 !== this.#avail.wrap;
    const place = (event & 0x7fff) - (lapBehind ? this.config.size : 0);
    return ((this.#avail.place - place - 1) & 0xffff) < added;
  }

  protected place(buffer: DriverBuffer, indirect: boolean): number {
    const id = this.#freeIds.shift() as number;
    const count = indirect ? 1 : buffer.segments.length;
    if (indirect) this.#placeIndirect(buffer, id);
    else this.#placeDirect(buffer, id);
    this.#counts.set(id, count);
    this.#free -= count;
    this.#addedSinceKick += count;
    return id;
  }

  protected peekUsed(): UsedBuffer | undefined {
    const at = this.#used.place * ring.pvirtq_desc.size;
    const flags = this.descriptorArea.getUint16(at + ring.pvirtq_desc.flags.offset, true);
    const available = (flags & ring.VIRTQ_DESC_F_AVAIL) === 0 ? 0 : 1;
    const used = (flags & ring.VIRTQ_DESC_F_USED) === 0 ? 0 : 1;
    if (this.inFlight === 0 || available !== used || used !== this.#used.wrap) return undefined;
    const written = this.descriptorArea.getUint32(at + ring.pvirtq_desc.len.offset, true);
    return {
      id: this.descriptorArea.getUint16(at + ring.pvirtq_desc.id.offset, true),
      written: (flags & ring.VIRTQ_DESC_F_WRITE) === 0 ? 0 : written,
    };
  }

  protected release(id: number): void {
    const count = this.#counts.get(id) ?? 0;
    this.#counts.delete(id);
    this.#freeIds.push(id);
    this.#free += count;
    this.#used.advance(count);
  }

  protected requestInterrupt(): void {
    const { desc, flags } = ring.pvirtq_event_suppress;
    if (this.layout.eventIdx) {
      this.driverArea.setUint16(desc.offset, this.#used.offAndWrap, true);
      this.driverArea.setUint16(flags.offset, ring.RING_EVENT_FLAGS_DESC, true);
    } else {
      this.driverArea.setUint16(flags.offset, ring.RING_EVENT_FLAGS_ENABLE, true);
    }
  }

  protected suppressInterrupts(): void {
    const { flags } = ring.pvirtq_event_suppress;
    this.driverArea.setUint16(flags.offset, ring.RING_EVENT_FLAGS_DISABLE, true);
  }

  /** §2.8.6: the id in the last descriptor, the first one's flags last of all. */
  #placeDirect(buffer: DriverBuffer, id: number): void {
    const first = this.#avail.place;
    let firstFlags = 0;
    const last = buffer.segments.length - 1;
    buffer.segments.forEach(({ gpa, length, writable }, i) => {
      const flags =
        this.#lapFlags() |
        (writable ? ring.VIRTQ_DESC_F_WRITE : 0) |
        (i === last ? 0 : ring.VIRTQ_DESC_F_NEXT);
      const { place } = this.#avail;
      writePackedDescriptor(this.descriptorArea, place, gpa, length, i === last ? id : 0);
      if (i === 0) firstFlags = flags;
      else this.#writeFlags(place, flags);
      this.#avail.advance(1);
    });
    this.#writeFlags(first, firstFlags);
  }

  #placeIndirect(buffer: DriverBuffer, id: number): void {
    const length = ring.pvirtq_desc.size * buffer.segments.length;
    const gpa = buffer.allocateTable(length);
    const table = this.layout.heap.view(gpa, length);
    buffer.segments.forEach((segment, i) => {
      writePackedDescriptor(table, i, segment.gpa, segment.length, 0);
      const at = i * ring.pvirtq_desc.size + ring.pvirtq_desc.flags.offset;
      table.setUint16(at, segment.writable ? ring.VIRTQ_DESC_F_WRITE : 0, true);
    });
    const { place } = this.#avail;
    writePackedDescriptor(this.descriptorArea, place, gpa, length, id);
    this.#writeFlags(place, this.#lapFlags() | ring.VIRTQ_DESC_F_INDIRECT);
    this.#avail.advance(1);
  }

  #lapFlags(): number {
    return this.#avail.wrap === 1 ? ring.VIRTQ_DESC_F_AVAIL : ring.VIRTQ_DESC_F_USED;
  }

  #writeFlags(place: number, flags: number): void {
    const at = place * ring.pvirtq_desc.size + ring.pvirtq_desc.flags.offset;
    this.descriptorArea.setUint16(at, flags, true);
  }
}

/** Writes a `struct pvirtq_desc` except its flags. */
function writePackedDescriptor(
  table: DataView,
  index: number,
  gpa: number,
  length: number,
  id: number,
): void {
  const at = index * ring.pvirtq_desc.size;
  table.setBigUint64(at + ring.pvirtq_desc.addr.offset, BigInt(gpa), true);
  table.setUint32(at + ring.pvirtq_desc.len.offset, length, true);
  table.setUint16(at + ring.pvirtq_desc.id.offset, id, true);
}
