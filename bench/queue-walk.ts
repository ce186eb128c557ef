/**
 * What one descriptor chain costs: pop, lay out as iovecs, push, publish every 32 chains; on both
 * formats, with direct and indirect descriptors, and without the iovecs, as devices that copy have
 * it; beside the same loop with iovecs in C (bench/peers/queue-walk.c, compiled with cc when there is
 * one). Samples are interleaved.
 *
 * Usage: node dist/bench/queue-walk.js [SAMPLES]
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED } from '../src/abi/virtio-ring.ts';
import { Ram } from '../src/memory/ram.ts';
import { MiB } from '../src/memory/ram-layout.ts';
import { createDriverQueue } from '../src/testing/driver-queue.ts';
import { GuestHeap } from '../src/testing/guest-heap.ts';
import { featureSet } from '../src/virtio/features.ts';
import { createVirtqueue } from '../src/virtio/queue/create-virtqueue.ts';
import { DescriptorChain } from '../src/virtio/queue/descriptor-chain.ts';
import { POP_CHAIN, type Virtqueue } from '../src/virtio/queue/virtqueue.ts';

const SIZE = 4096;
const BATCH = 32;
const ROUNDS = 100;
const SEGMENT = new Uint8Array(64);
/** Both lap bits of a packed descriptor's last word. */
const LAP_FLAGS = 0x8080_0000;

interface Case {
  readonly format: 'split' | 'packed';
  readonly table: 'direct' | 'indirect';
  readonly segments: number;
}

/** A ring that can be made available again and again at little cost, and its device side. */
class Walk {
  readonly #queue: Virtqueue;
  readonly #chain: DescriptorChain;
  readonly #chains: number;
  readonly #refill: () => void;
  readonly #rounds = new Float64Array(ROUNDS);
  readonly #iovecs: boolean;
  bytes = 0;

  constructor(ram: Ram, { format, table, segments }: Case, iovecs: boolean) {
    this.#iovecs = iovecs;
    const packed = format === 'packed';
    const features = featureSet(VIRTIO_F_INDIRECT_DESC, ...(packed ? [VIRTIO_F_RING_PACKED] : []));
    const heap = new GuestHeap(ram.memory, MiB, 64 * MiB);
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
    this.#queue = createVirtqueue(ram.memory, driver.config, features);
    this.#chain = new DescriptorChain(ram.memory);
  }

  /** Nanoseconds a chain, the median of the rounds: so that other load on the host counts little. */
  sample(): number {
    let done = 0;
    for (let round = 0; round < ROUNDS; round++) {
      this.#refill();
      const start = performance.now();
      done += this.#drain();
      this.#rounds[round] = performance.now() - start;
    }
    if (done !== this.#chains * ROUNDS) throw new Error(`walked ${done} chains`);
    return ((this.#rounds.toSorted()[ROUNDS / 2] as number) * 1e6) / this.#chains;
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

/** The C loop, or undefined without a compiler. */
function compile(folder: string): ((c: Case) => number) | undefined {
  const source = fileURLToPath(new URL('../../bench/peers/queue-walk.c', import.meta.url));
  const program = join(folder, 'queue-walk');
  try {
    execFileSync('cc', ['-O2', '-o', program, source], { stdio: ['ignore', 'ignore', 'pipe'] });
  } catch (error) {
    console.log(`no figures for C: ${String(error).split('\n')[0]}`);
    return undefined;
  }
  return (c) =>
    Number(execFileSync(program, [c.format, c.table, String(c.segments), String(ROUNDS)]));
}

function summary(samples: readonly number[]): { median: number; text: string } {
  const sorted = samples.toSorted((a, b) => a - b);
  const median = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  const low = sorted[0] ?? Number.NaN;
  const high = sorted.at(-1) ?? Number.NaN;
  return { median, text: `${median.toFixed(1)} (${low.toFixed(1)}-${high.toFixed(1)})` };
}

const count = Number(process.argv[2] ?? 15);
const cases: Case[] = [];
for (const format of ['split', 'packed'] as const) {
  for (const table of ['direct', 'indirect'] as const) {
    for (const segments of [1, 3]) cases.push({ format, table, segments });
  }
}
const folder = mkdtempSync(join(tmpdir(), 'nodevmm-bench-'));
const rams: Ram[] = [];
try {
  const peer = compile(folder);
  const runs = cases.map((c) => {
    const walks = [true, false].map((iovecs) => {
      const ram = new Ram(64 * MiB);
      rams.push(ram);
      const walk = new Walk(ram, c, iovecs);
      for (let i = 0; i < 5; i++) walk.sample();
      return { walk, samples: [] as number[] };
    });
    return { c, walks, native: [] as number[] };
  });
  for (let i = 0; i < count; i++) {
    for (const { c, walks, native } of runs) {
      for (const { walk, samples } of walks) samples.push(walk.sample());
      if (peer !== undefined) native.push(peer(c));
    }
  }
  console.log(`ns a chain, median (lowest-highest) of ${count} samples, Node ${process.version}`);
  const heads = ['TypeScript', 'without iovecs', 'C', 'ratio'].map((head) => head.padEnd(20));
  console.log(['format ', 'table    ', 'segments ', ...heads].join(' ').trimEnd());
  for (const { c, walks, native } of runs) {
    const [ours, bare] = walks.map(({ samples }) => summary(samples));
    const theirs = summary(native);
    console.log(
      [
        c.format.padEnd(7),
        c.table.padEnd(9),
        String(c.segments).padEnd(9),
        (ours?.text ?? '-').padEnd(20),
        (bare?.text ?? '-').padEnd(20),
        (peer === undefined ? '-' : theirs.text).padEnd(20),
        peer === undefined || ours === undefined ? '-' : (ours.median / theirs.median).toFixed(2),
      ].join(' '),
    );
  }
} finally {
  for (const ram of rams) ram[Symbol.dispose]();
  rmSync(folder, { recursive: true });
}
