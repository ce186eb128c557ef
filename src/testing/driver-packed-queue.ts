/** Driver side of a packed virtqueue (virtio 1.3 §2.8). */
import {
  pvirtq_desc,
  pvirtq_event_suppress,
  RING_EVENT_FLAGS_DESC,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_USED,
  VIRTQ_DESC_F_WRITE,
} from '../abi/virtio-ring.ts';
import { InternalError, UsageError } from '../host/errors.ts';
import type { QueueConfig } from '../virtio/queue/virtqueue.ts';
import { type BufferRequest, type CompletedBuffer, DriverBuffer } from './driver-buffer.ts';
import type { DriverQueue, DriverQueueParts } from './driver-queue.ts';
import { fullBarrier } from './full-barrier.ts';

interface InFlight {
  readonly buffer: DriverBuffer;
  readonly slots: number;
}

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
export class DriverPackedQueue implements DriverQueue {
  readonly config: QueueConfig;
  readonly descriptorArea: DataView;
  readonly driverArea: DataView;
  readonly deviceArea: DataView;
  readonly #parts: DriverQueueParts;
  readonly #freeIds: number[];
  readonly #byId = new Map<number, InFlight>();
  readonly #avail: RingPosition;
  readonly #used: RingPosition;
  #freeSlots: number;
  #tokens = 0;
  #addedSlots = 0;
  #interruptsOn = true;

  constructor(parts: DriverQueueParts) {
    const { size } = parts.config;
    this.#parts = parts;
    this.config = parts.config;
    this.descriptorArea = parts.descriptorArea;
    this.driverArea = parts.driverArea;
    this.deviceArea = parts.deviceArea;
    this.#freeIds = Array.from({ length: size }, (_, index) => index);
    this.#freeSlots = size;
    this.#avail = new RingPosition(size);
    this.#used = new RingPosition(size);
  }

  get free(): number {
    return this.#freeSlots;
  }

  get inFlight(): number {
    return this.#byId.size;
  }

  add(request: BufferRequest): number {
    const { heap } = this.#parts;
    const count = (request.readable?.length ?? 0) + (request.writable?.length ?? 0);
    const indirect = request.indirect ?? (this.#parts.indirect && count > 1);
    const slots = indirect ? 1 : count;
    if (count === 0) throw new UsageError('E_BUFFER', 'a buffer needs at least one segment');
    if (this.free < slots) throw new UsageError('E_QUEUE_FULL', 'the queue has no room');
    const buffer = new DriverBuffer(heap, this.#tokens++, request);
    const id = this.#freeIds.shift() as number;
    if (indirect) this.#placeTable(buffer, id);
    else this.#placeList(buffer, id);
    this.#byId.set(id, { buffer, slots });
    this.#freeSlots -= slots;
    this.#addedSlots += slots;
    return buffer.token;
  }

  kick(): boolean {
    const added = this.#addedSlots;
    this.#addedSlots = 0;
    if (added === 0) return false;
    fullBarrier();
    const flags = this.deviceArea.getUint16(pvirtq_event_suppress.flags.offset, true) & 3;
    if (flags === RING_EVENT_FLAGS_DISABLE) return false;
    if (flags !== RING_EVENT_FLAGS_DESC) return true;
    const event = this.deviceArea.getUint16(pvirtq_event_suppress.desc.offset, true);
    const lapBehind = event >>> 15 !== this.#avail.wrap;
    const place = (event & 0x7fff) - (lapBehind ? this.config.size : 0);
    return ((this.#avail.place - place - 1) & 0xffff) < added;
  }

  completed(): CompletedBuffer[] {
    const done: CompletedBuffer[] = [];
    while (this.#byId.size > 0 && this.#nextIsUsed()) {
      const at = this.#used.place * pvirtq_desc.size;
      const id = this.descriptorArea.getUint16(at + pvirtq_desc.id.offset, true);
      const length = this.descriptorArea.getUint32(at + pvirtq_desc.len.offset, true);
      const flags = this.descriptorArea.getUint16(at + pvirtq_desc.flags.offset, true);
      if (this.#parts.inOrder) this.#completeSkipped(id, done);
      done.push(this.#complete(id, (flags & VIRTQ_DESC_F_WRITE) === 0 ? 0 : length));
    }
    if (this.#interruptsOn && done.length > 0) this.enableInterrupts();
    return done;
  }

  enableInterrupts(): boolean {
    this.#interruptsOn = true;
    const { desc, flags } = pvirtq_event_suppress;
    if (this.#parts.eventIdx) {
      this.driverArea.setUint16(desc.offset, this.#used.offAndWrap, true);
      this.driverArea.setUint16(flags.offset, RING_EVENT_FLAGS_DESC, true);
    } else {
      this.driverArea.setUint16(flags.offset, RING_EVENT_FLAGS_ENABLE, true);
    }
    fullBarrier();
    return this.#byId.size > 0 && this.#nextIsUsed();
  }

  disableInterrupts(): void {
    this.#interruptsOn = false;
    const { flags } = pvirtq_event_suppress;
    this.driverArea.setUint16(flags.offset, RING_EVENT_FLAGS_DISABLE, true);
  }

  #nextIsUsed(): boolean {
    const at = this.#used.place * pvirtq_desc.size + pvirtq_desc.flags.offset;
    const flags = this.descriptorArea.getUint16(at, true);
    const available = (flags & VIRTQ_DESC_F_AVAIL) === 0 ? 0 : 1;
    const used = (flags & VIRTQ_DESC_F_USED) === 0 ? 0 : 1;
    return available === used && used === this.#used.wrap;
  }

  /** §2.8.8: the buffers before the one that is named were used completely. */
  #completeSkipped(id: number, done: CompletedBuffer[]): void {
    if (!this.#byId.has(id)) return;
    for (const [skipped, { buffer }] of this.#byId) {
      if (skipped === id) return;
      done.push(this.#complete(skipped, buffer.writableLength));
    }
  }

  #complete(id: number, written: number): CompletedBuffer {
    const entry = this.#byId.get(id);
    if (entry === undefined) {
      throw new InternalError(`the device used buffer ${id}, which it does not have`);
    }
    this.#byId.delete(id);
    this.#freeIds.push(id);
    this.#freeSlots += entry.slots;
    this.#used.advance(entry.slots);
    return entry.buffer.complete(written);
  }

  /** §2.8.6: the id in the last descriptor, the first one's flags last of all. */
  #placeList(buffer: DriverBuffer, id: number): void {
    const first = this.#avail.place;
    let firstFlags = 0;
    const last = buffer.segments.length - 1;
    buffer.segments.forEach(({ gpa, length, writable }, i) => {
      const flags =
        this.#lapFlags() |
        (writable ? VIRTQ_DESC_F_WRITE : 0) |
        (i === last ? 0 : VIRTQ_DESC_F_NEXT);
      const { place } = this.#avail;
      writePackedDescriptor(this.descriptorArea, place, gpa, length, i === last ? id : 0);
      if (i === 0) firstFlags = flags;
      else this.#writeFlags(place, flags);
      this.#avail.advance(1);
    });
    this.#writeFlags(first, firstFlags);
  }

  #placeTable(buffer: DriverBuffer, id: number): void {
    const length = pvirtq_desc.size * buffer.segments.length;
    const gpa = buffer.table(length);
    const table = this.#parts.heap.view(gpa, length);
    buffer.segments.forEach((segment, i) => {
      writePackedDescriptor(table, i, segment.gpa, segment.length, 0);
      const at = i * pvirtq_desc.size + pvirtq_desc.flags.offset;
      table.setUint16(at, segment.writable ? VIRTQ_DESC_F_WRITE : 0, true);
    });
    const { place } = this.#avail;
    writePackedDescriptor(this.descriptorArea, place, gpa, length, id);
    this.#writeFlags(place, this.#lapFlags() | VIRTQ_DESC_F_INDIRECT);
    this.#avail.advance(1);
  }

  #lapFlags(): number {
    return this.#avail.wrap === 1 ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED;
  }

  #writeFlags(place: number, flags: number): void {
    const at = place * pvirtq_desc.size + pvirtq_desc.flags.offset;
    this.descriptorArea.setUint16(at, flags, true);
  }
}

/** Writes a `struct pvirtq_desc` but for its flags. */
export function writePackedDescriptor(
  table: DataView,
  index: number,
  gpa: number,
  length: number,
  id: number,
): void {
  const at = index * pvirtq_desc.size;
  table.setBigUint64(at + pvirtq_desc.addr.offset, BigInt(gpa), true);
  table.setUint32(at + pvirtq_desc.len.offset, length, true);
  table.setUint16(at + pvirtq_desc.id.offset, id, true);
}
