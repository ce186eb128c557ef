/** Driver side of a split virtqueue (virtio 1.3 §2.7). */
import {
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED_F_NO_NOTIFY,
  virtq_desc,
  virtq_used_elem,
} from '../abi/virtio-ring.ts';
import { InternalError, UsageError } from '../host/errors.ts';
import type { QueueConfig } from '../virtio/queue/virtqueue.ts';
import { type BufferRequest, type CompletedBuffer, DriverBuffer } from './driver-buffer.ts';
import type { DriverQueue, DriverQueueParts } from './driver-queue.ts';
import { fullBarrier } from './full-barrier.ts';

interface InFlight {
  readonly buffer: DriverBuffer;
  /** Indices in the descriptor table; the first is the head. */
  readonly descriptors: readonly number[];
}

/** See `DriverQueue`. */
export class DriverSplitQueue implements DriverQueue {
  readonly config: QueueConfig;
  readonly descriptorArea: DataView;
  readonly driverArea: DataView;
  readonly deviceArea: DataView;
  readonly #parts: DriverQueueParts;
  /** First freed, first used again: with VIRTIO_F_IN_ORDER that is ring order (§2.7.5). */
  readonly #freeDescriptors: number[];
  readonly #byHead = new Map<number, InFlight>();
  #tokens = 0;
  #availIdx = 0;
  #kickedAt = 0;
  #lastUsed = 0;
  #interruptsOn = true;

  constructor(parts: DriverQueueParts) {
    this.#parts = parts;
    this.config = parts.config;
    this.descriptorArea = parts.descriptorArea;
    this.driverArea = parts.driverArea;
    this.deviceArea = parts.deviceArea;
    this.#freeDescriptors = Array.from({ length: parts.config.size }, (_, index) => index);
  }

  get free(): number {
    return this.#freeDescriptors.length;
  }

  get inFlight(): number {
    return this.#byHead.size;
  }

  add(request: BufferRequest): number {
    const { heap, config } = this.#parts;
    const count = (request.readable?.length ?? 0) + (request.writable?.length ?? 0);
    const indirect = request.indirect ?? (this.#parts.indirect && count > 1);
    const needed = indirect ? 1 : count;
    if (count === 0) throw new UsageError('E_BUFFER', 'a buffer needs at least one segment');
    if (this.free < needed) throw new UsageError('E_QUEUE_FULL', 'the queue has no room');
    const buffer = new DriverBuffer(heap, this.#tokens++, request);
    const descriptors = this.#freeDescriptors.splice(0, needed);
    const head = descriptors[0] as number;
    if (indirect) {
      const length = virtq_desc.size * count;
      const table = buffer.table(length);
      this.#fill(
        heap.view(table, length),
        buffer,
        Array.from({ length: count }, (_, i) => i),
      );
      writeDescriptor(this.descriptorArea, head, table, length, VIRTQ_DESC_F_INDIRECT, 0);
    } else {
      this.#fill(this.descriptorArea, buffer, descriptors);
    }
    this.#byHead.set(head, { buffer, descriptors });
    this.driverArea.setUint16(4 + 2 * (this.#availIdx % config.size), head, true);
    this.#availIdx = (this.#availIdx + 1) & 0xffff;
    this.driverArea.setUint16(2, this.#availIdx, true);
    return buffer.token;
  }

  kick(): boolean {
    const before = this.#kickedAt;
    this.#kickedAt = this.#availIdx;
    if (before === this.#availIdx) return false;
    fullBarrier();
    if (!this.#parts.eventIdx) {
      return (this.deviceArea.getUint16(0, true) & VIRTQ_USED_F_NO_NOTIFY) === 0;
    }
    const event = this.deviceArea.getUint16(4 + 8 * this.config.size, true);
    return ((this.#availIdx - event - 1) & 0xffff) < ((this.#availIdx - before) & 0xffff);
  }

  completed(): CompletedBuffer[] {
    const done: CompletedBuffer[] = [];
    while (this.#lastUsed !== this.#usedIdx()) {
      const at = 4 + virtq_used_elem.size * (this.#lastUsed % this.config.size);
      const id = this.deviceArea.getUint32(at + virtq_used_elem.id.offset, true);
      const written = this.deviceArea.getUint32(at + virtq_used_elem.len.offset, true);
      if (this.#parts.inOrder) this.#completeSkipped(id, done);
      done.push(this.#complete(id, written));
    }
    if (this.#interruptsOn && done.length > 0) this.enableInterrupts();
    return done;
  }

  enableInterrupts(): boolean {
    this.#interruptsOn = true;
    if (this.#parts.eventIdx) {
      this.driverArea.setUint16(4 + 2 * this.config.size, this.#lastUsed, true);
    } else {
      this.driverArea.setUint16(0, 0, true);
    }
    fullBarrier();
    return this.#lastUsed !== this.#usedIdx();
  }

  disableInterrupts(): void {
    this.#interruptsOn = false;
    if (!this.#parts.eventIdx) this.driverArea.setUint16(0, VIRTQ_AVAIL_F_NO_INTERRUPT, true);
  }

  /** §2.7.9: the buffers before the one that is named were used completely. */
  #completeSkipped(id: number, done: CompletedBuffer[]): void {
    if (!this.#byHead.has(id)) return;
    for (const [head, { buffer }] of this.#byHead) {
      if (head === id) return;
      done.push(this.#complete(head, buffer.writableLength));
    }
  }

  #complete(id: number, written: number): CompletedBuffer {
    const entry = this.#byHead.get(id);
    if (entry === undefined) {
      throw new InternalError(`the device used chain ${id}, which it does not have`);
    }
    this.#byHead.delete(id);
    this.#freeDescriptors.push(...entry.descriptors);
    this.#lastUsed = (this.#lastUsed + 1) & 0xffff;
    return entry.buffer.complete(written);
  }

  #usedIdx(): number {
    return this.deviceArea.getUint16(2, true);
  }

  #fill(table: DataView, buffer: DriverBuffer, indices: readonly number[]): void {
    buffer.segments.forEach(({ gpa, length, writable }, i) => {
      const next = indices[i + 1];
      const flags =
        (writable ? VIRTQ_DESC_F_WRITE : 0) | (next === undefined ? 0 : VIRTQ_DESC_F_NEXT);
      writeDescriptor(table, indices[i] as number, gpa, length, flags, next ?? 0);
    });
  }
}

/** Writes a `struct virtq_desc` into a table. */
export function writeDescriptor(
  table: DataView,
  index: number,
  gpa: number,
  length: number,
  flags: number,
  next: number,
): void {
  const at = index * virtq_desc.size;
  table.setBigUint64(at + virtq_desc.addr.offset, BigInt(gpa), true);
  table.setUint32(at + virtq_desc.len.offset, length, true);
  table.setUint16(at + virtq_desc.flags.offset, flags, true);
  table.setUint16(at + virtq_desc.next.offset, next, true);
}
