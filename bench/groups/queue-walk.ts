/**
 * The cost of one descriptor chain: pop, lay out as iovecs, push, publish every 32 chains; on both
 * formats, with direct and indirect descriptors, and without the iovecs, for devices that copy;
 * next to the same loop with iovecs in C.
 */
import {
  featureSet,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
} from '../../src/abi/virtio-ring.ts';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import { IovaSpace } from '../../src/memory/iova-space.ts';
import { Ram } from '../../src/memory/ram.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { createDriverQueue } from '../../src/testing/create-driver-queue.ts';
import { GuestHeap } from '../../src/testing/guest-heap.ts';
import { createVirtqueue } from '../../src/virtio/queue/create-virtqueue.ts';
import { DescriptorChain } from '../../src/virtio/queue/descriptor-chain.ts';
import { POP_CHAIN, type Virtqueue } from '../../src/virtio/queue/virtqueue.ts';
import type { Measure } from '../harness/measure.ts';
import { type Case, compilePeer, type Group, measureCases, type Sampler } from './group.ts';

const SIZE = 4096;
const BATCH = 32;
/** A sample is the median of this many: other load on the host then matters little. */
const LAPS = 100;
const SAMPLES_PER_ROUND = 4;
const SEGMENT = new Uint8Array(64);
/** Both lap bits of a packed descriptor's last word. */
const LAP_FLAGS = 0x8080_0000;

interface Shape {
  readonly format: 'split' | 'packed';
  readonly table: 'direct' | 'indirect';
  readonly segments: number;
}

const SHAPES: readonly Shape[] = (['split', 'packed'] as const).flatMap((format) =>
  (['direct', 'indirect'] as const).flatMap((table) =>
    [1, 3].map((segments) => ({ format, table, segments })),
  ),
);

const measureOf = ({ format, table, segments }: Shape): Measure => {
  const what = segments === 1 ? '1 segment' : `${segments} segments`;
  return { name: `chain, ${format}, ${table}, ${what}`, unit: 'ns', better: 'lower' };
};

/** A ring that can be made available repeatedly at little cost, and its device side. */
class Walk implements Sampler {
  readonly #ram = new Ram(64 * MiB, 'memfd');
  readonly #behind: IovaSpace | undefined;
  readonly #queue: Virtqueue;
  readonly #chain: DescriptorChain;
  readonly #chains: number;
  readonly #refill: () => void;
  readonly #laps = new Float64Array(LAPS);
  readonly #iovecs: boolean;
  bytes = 0;

  /** @param translated the device is behind an IOMMU */
  constructor({ format, table, segments }: Shape, iovecs: boolean, translated = false) {
    this.#iovecs = iovecs;
    const { memory } = this.#ram;
    if (translated) {
      this.#behind = new IovaSpace(memory);
      this.#behind.bypass();
    }
    const packed = format === 'packed';
    const features = featureSet(VIRTIO_F_INDIRECT_DESC, ...(packed ? [VIRTIO_F_RING_PACKED] : []));
    const heap = new GuestHeap(memory, MiB, 64 * MiB);
    const driver = createDriverQueue(heap, { size: SIZE, features });
    const indirect = table === 'indirect';
    const slots = indirect ? 1 : segments;
    this.#chains = Math.floor(SIZE / slots);
    for (let i = 0; i < this.#chains; i++) {
      const writable = Array.from({ length: segments - 1 }, () => SEGMENT.length);
      driver.add({ readable: [SEGMENT], writable, indirect });
    }
    const { buffer, byteOffset } = driver.descriptorArea;
    const ring = new Uint32Array(buffer, byteOffset, SIZE * 4);
    const template = ring.slice(0, this.#chains * slots * 4);
    if (packed) ring.fill(0);
    else driver.driverArea.setUint16(2, 0, true);
    let place = 0;
    let lap = 0;
    let index = 0;
    const refillPacked = () => {
      for (let i = 0; i < template.length; i += 4) {
        for (let word = 0; word < 3; word++) {
          ring[place * 4 + word] = template[i + word] as number;
        }
        ring[place * 4 + 3] = (template[i + 3] as number) ^ lap;
        if (++place === SIZE) {
          place = 0;
          lap ^= LAP_FLAGS;
        }
      }
    };
    const refillSplit = () => {
      for (let i = 0; i < this.#chains; i++) {
        driver.driverArea.setUint16(4 + 2 * ((index + i) % SIZE), i * slots, true);
      }
      index = (index + this.#chains) & 0xffff;
      driver.driverArea.setUint16(2, index, true);
    };
    this.#refill = packed ? refillPacked : refillSplit;
    const seen = this.#behind?.memory ?? memory;
    this.#queue = createVirtqueue(seen, driver.config, features);
    this.#chain = new DescriptorChain(seen);
  }

  /** Nanoseconds per chain. */
  sample(): number {
    let done = 0;
    for (let lap = 0; lap < LAPS; lap++) {
      this.#refill();
      const start = performance.now();
      done += this.#drain();
      this.#laps[lap] = performance.now() - start;
    }
    if (done !== this.#chains * LAPS) throw new Error(`walked ${done} chains`);
    return ((this.#laps.toSorted()[LAPS / 2] as number) * 1e6) / this.#chains;
  }

  close(): void {
    this.#ram[Symbol.dispose]();
  }

  #drain(): number {
    const queue = this.#queue;
    const chain = this.#chain;
    let done = 0;
    for (;;) {
      let batch = 0;
      while (batch < BATCH && queue.pop(chain) === POP_CHAIN) {
        this.bytes += chain.readableLength + chain.writableLength;
        if (this.#iovecs) this.bytes += chain.iovecAddress & 1;
        queue.push(chain.id, chain.slots, chain.writableLength);
        batch++;
      }
      if (batch === 0) return done;
      done += batch;
      queue.publish();
    }
  }
}

export const queueWalkGroup: Group = {
  name: 'queue-walk',
  summary: 'a virtqueue’s pop and push, and in C (docs/virtqueues.md)',
  named: true,
  async run(context) {
    using folder = new TemporaryFolder('nodevmm-bench-');
    const inC = compilePeer('queue-walk', folder.path, context);
    const cases = SHAPES.map((shape): Case => {
      const args = [shape.format, shape.table, String(shape.segments), String(LAPS)];
      return {
        measure: measureOf(shape),
        peer: 'C',
        rows: {
          nodevmm: () => new Walk(shape, true),
          'without iovecs': () => new Walk(shape, false),
          'behind an IOMMU': () => new Walk(shape, true, true),
          C: inC && (() => ({ sample: () => inC(args) })),
        },
      };
    });
    await measureCases('queue-walk', cases, context, SAMPLES_PER_ROUND);
  },
};
