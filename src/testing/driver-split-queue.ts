/** Driver side of a split virtqueue (virtio 1.3 §2.7). */
import * as ring from '../abi/virtio-ring.ts';
import {
  type DriverBuffer,
  DriverQueue,
  type DriverQueueLayout,
  fullBarrier,
  type UsedBuffer,
} from './driver-queue.ts';

/** See `DriverQueue`. */
export class DriverSplitQueue extends DriverQueue {
  /** A FIFO: with VIRTIO_F_IN_ORDER that is ring order (§2.7.5). */
  readonly #freeDescriptors: number[];
  /** Of the buffers in flight, by head. */
  readonly #chains = new Map<number, readonly number[]>();
  #availIdx = 0;
  #kickedAt = 0;
  #lastUsed = 0;

  constructor(layout: DriverQueueLayout) {
    super(layout);
    this.#freeDescriptors = Array.from({ length: layout.config.size }, (_, index) => index);
  }

  get free(): number {
    return this.#freeDescriptors.length;
  }

  kick(): boolean {
    const before = this.#kickedAt;
    this.#kickedAt = this.#availIdx;
    if (before === this.#availIdx) return false;
    fullBarrier();
    if (!this.layout.eventIdx) {
      return (this.deviceArea.getUint16(0, true) & ring.VIRTQ_USED_F_NO_NOTIFY) === 0;
    }
    const event = this.deviceArea.getUint16(4 + 8 * this.config.size, true);
    return ((this.#availIdx - event - 1) & 0xffff) < ((this.#availIdx - before) & 0xffff);
  }

  protected place(buffer: DriverBuffer, indirect: boolean): number {
    const { segments } = buffer;
    const chain = this.#freeDescriptors.splice(0, indirect ? 1 : segments.length);
    const head = chain[0] as number;
    if (indirect) {
      const length = ring.virtq_desc.size * segments.length;
      const gpa = buffer.allocateTable(length);
      fillChain(this.layout.heap.view(gpa, length), buffer, [...segments.keys()]);
      writeDescriptor(this.descriptorArea, head, gpa, length, ring.VIRTQ_DESC_F_INDIRECT, 0);
    } else {
      fillChain(this.descriptorArea, buffer, chain);
    }
    this.#chains.set(head, chain);
    this.driverArea.setUint16(4 + 2 * (this.#availIdx % this.config.size), head, true);
    this.#availIdx = (this.#availIdx + 1) & 0xffff;
    this.driverArea.setUint16(2, this.#availIdx, true);
    return head;
  }

  protected peekUsed(): UsedBuffer | undefined {
    if (this.#lastUsed === this.deviceArea.getUint16(2, true)) return undefined;
    const at = 4 + ring.virtq_used_elem.size * (this.#lastUsed % this.config.size);
    return {
      id: this.deviceArea.getUint32(at + ring.virtq_used_elem.id.offset, true),
      written: this.deviceArea.getUint32(at + ring.virtq_used_elem.len.offset, true),
    };
  }

  protected release(head: number): void {
    this.#freeDescriptors.push(...(this.#chains.get(head) ?? []));
    this.#chains.delete(head);
    this.#lastUsed = (this.#lastUsed + 1) & 0xffff;
  }

  protected requestInterrupt(): void {
    const at = this.layout.eventIdx ? 4 + 2 * this.config.size : 0;
    this.driverArea.setUint16(at, this.layout.eventIdx ? this.#lastUsed : 0, true);
  }

  protected suppressInterrupts(): void {
    if (!this.layout.eventIdx) this.driverArea.setUint16(0, ring.VIRTQ_AVAIL_F_NO_INTERRUPT, true);
  }
}

function fillChain(table: DataView, buffer: DriverBuffer, indices: readonly number[]): void {
  buffer.segments.forEach(({ gpa, length, writable }, i) => {
    const next = indices[i + 1];
    const flags =
      (writable ? ring.VIRTQ_DESC_F_WRITE : 0) | (next === undefined ? 0 : ring.VIRTQ_DESC_F_NEXT);
    writeDescriptor(table, indices[i] as number, gpa, length, flags, next ?? 0);
  });
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
  const at = index * ring.virtq_desc.size;
  table.setBigUint64(at + ring.virtq_desc.addr.offset, BigInt(gpa), true);
  table.setUint32(at + ring.virtq_desc.len.offset, length, true);
  table.setUint16(at + ring.virtq_desc.flags.offset, flags, true);
  table.setUint16(at + ring.virtq_desc.next.offset, next, true);
}
