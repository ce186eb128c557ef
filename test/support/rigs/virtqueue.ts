/** Both sides of one virtqueue in a little guest RAM. */
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_USED,
} from '../../../src/abi/virtio-ring.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { createDriverQueue } from '../../../src/testing/create-driver-queue.ts';
import type { DriverQueue } from '../../../src/testing/driver-queue.ts';
import { GuestHeap } from '../../../src/testing/guest-heap.ts';
import { createVirtqueue } from '../../../src/virtio/queue/create-virtqueue.ts';
import { DescriptorChain } from '../../../src/virtio/queue/descriptor-chain.ts';
import { POP_CHAIN, type Virtqueue } from '../../../src/virtio/queue/virtqueue.ts';

export interface FixtureOptions {
  readonly size?: number;
  readonly ramSize?: number;
  /** Guest physical range of the rings and buffers. */
  readonly heapStart?: number;
  readonly heapEnd?: number;
}

/** One descriptor, in either format. */
export interface RawDescriptor {
  readonly addr: number | bigint;
  readonly len: number;
  readonly flags?: number;
  /** `next` on split queues, `id` on packed ones. */
  readonly nextOrId?: number;
}

/** Flags of an available packed descriptor in the first lap. */
export const LAP_1 = VIRTQ_DESC_F_AVAIL;
/** And in the second. */
export const LAP_0 = VIRTQ_DESC_F_USED;

export class QueueFixture implements Disposable {
  readonly ram: Ram;
  readonly heap: GuestHeap;
  readonly features: bigint;
  readonly driver: DriverQueue;
  readonly chain: DescriptorChain;
  device: Virtqueue;
  readonly #packed: boolean;

  /** @param features bit numbers */
  constructor(features: readonly number[], options: FixtureOptions = {}) {
    const ramSize = options.ramSize ?? 16 * MiB;
    this.ram = new Ram(ramSize);
    const start = options.heapStart ?? MiB;
    this.heap = new GuestHeap(this.ram.memory, start, options.heapEnd ?? ramSize);
    this.features = featureSet(...features);
    this.#packed = features.includes(VIRTIO_F_RING_PACKED);
    const size = options.size ?? 8;
    this.driver = createDriverQueue(this.heap, { size, features: this.features });
    this.device = createVirtqueue(this.ram.memory, this.driver.config, this.features);
    this.chain = new DescriptorChain(this.ram.memory);
  }

  /** Pops into `chain`. */
  pop(): number {
    return this.device.pop(this.chain);
  }

  /** Pops a chain that must be there. Returns what `push` wants. */
  take(): { readonly id: number; readonly slots: number; readonly writable: number } {
    const result = this.pop();
    if (result !== POP_CHAIN) throw new Error(`pop gave ${result}`);
    return { id: this.chain.id, slots: this.chain.slots, writable: this.chain.writableLength };
  }

  /** Pops, pushes and publishes all there is. Returns how many, and whether to interrupt. */
  serve(): { readonly count: number; readonly interrupt: boolean } {
    let count = 0;
    while (this.pop() === POP_CHAIN) {
      this.device.push(this.chain.id, this.chain.slots, this.chain.writableLength);
      count++;
    }
    return { count, interrupt: this.device.publish() };
  }

  /** Recreates the device side where it left off. */
  handOver(): void {
    const config = { ...this.driver.config, state: this.device.state() };
    this.device = createVirtqueue(this.ram.memory, config, this.features);
  }

  /** Writes a descriptor into the descriptor area. */
  descriptor(index: number, raw: RawDescriptor): void {
    this.#write(this.driver.descriptorArea, index, raw);
  }

  /** Writes an indirect table. Returns its address. */
  table(entries: readonly RawDescriptor[]): number {
    const gpa = this.heap.allocate(entries.length * 16);
    const view = this.heap.view(gpa, entries.length * 16);
    entries.forEach((raw, i) => {
      this.#write(view, i, raw);
    });
    return gpa;
  }

  /** Split: puts a head into the available ring, and raises the index. */
  makeAvailable(head: number): void {
    const { driverArea, config } = this.driver;
    const idx = driverArea.getUint16(2, true);
    driverArea.setUint16(4 + 2 * (idx % config.size), head, true);
    driverArea.setUint16(2, idx + 1, true);
  }

  [Symbol.dispose](): void {
    this.ram[Symbol.dispose]();
  }

  #write(table: DataView, index: number, raw: RawDescriptor): void {
    table.setBigUint64(index * 16, BigInt(raw.addr), true);
    table.setUint32(index * 16 + 8, raw.len, true);
    const flags = raw.flags ?? 0;
    const nextOrId = raw.nextOrId ?? 0;
    table.setUint16(index * 16 + 12, this.#packed ? nextOrId : flags, true);
    table.setUint16(index * 16 + 14, this.#packed ? flags : nextOrId, true);
  }
}
