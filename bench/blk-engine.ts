/**
 * Random 4 KiB reads and writes through the whole block device (virtqueue, request, engine) without a guest,
 * beside the same requests in plain C without a device (bench/peers/blk-engine.c, compiled with cc
 * when there is one). Samples are interleaved. On a busy host read the
 * ratio of the highest.
 *
 * Usage: node dist/bench/blk-engine.js [SAMPLES [FILE...]]
 */
import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VIRTIO_F_VERSION_1 } from '../src/abi/virtio-ring.ts';
import { MiB } from '../src/memory/ram-layout.ts';
import { DeviceRig } from '../src/testing/index.ts';
import { createBlkDevice } from '../src/virtio/device/blk/blk.ts';
import type { QueueHandler } from '../src/virtio/device.ts';
import { featureSet } from '../src/virtio/features.ts';
import { BLOCK, LeanBlkDriver } from './lean-blk-driver.ts';

const FILE_SIZE = 256 * MiB;
const QUEUE_SIZE = 256;
/** Short, so that some samples escape what else the host does. */
const SAMPLE_MS = 30;

type Engine = 'sync' | 'io_uring';

interface Case {
  readonly file: string;
  readonly engine: Engine;
  readonly depth: number;
  readonly direct: boolean;
  readonly writes: boolean;
}

/** Makes a function that measures requests a second, and keeps its device between samples. */
function device(c: Case): { sample: (requests: number) => number; close: () => void } {
  const blk = createBlkDevice({
    name: 'bench',
    path: c.file,
    direct: c.direct,
    engine: c.engine,
    queueSize: QUEUE_SIZE,
  });
  const rig = new DeviceRig(16 * MiB);
  const handler = (blk.createHandler as () => QueueHandler).call(blk);
  rig.start(handler, blk.features | featureSet(VIRTIO_F_VERSION_1), [QUEUE_SIZE]);
  const driver = new LeanBlkDriver({
    queue: rig.queue(0),
    heap: rig.heap,
    notify: () => rig.notify(0),
    wait: () => rig.pump(1000),
    depth: c.depth,
    blocks: FILE_SIZE / BLOCK,
    writes: c.writes,
  });
  return {
    sample(requests) {
      const start = process.hrtime.bigint();
      driver.run(requests);
      return (requests * 1e9) / Number(process.hrtime.bigint() - start);
    },
    close() {
      rig[Symbol.dispose]();
      blk.close();
    },
  };
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] as number;
}

function show(values: readonly number[]): string {
  const kilo = (value: number) => (value / 1000).toFixed(0).padStart(5);
  return `${kilo(median(values))} (${kilo(Math.min(...values))} -${kilo(Math.max(...values))})`;
}

function makeFile(path: string): void {
  const fd = openSync(path, 'w');
  const chunk = Buffer.alloc(MiB, 0x5a);
  for (let at = 0; at < FILE_SIZE; at += MiB) writeSync(fd, chunk);
  closeSync(fd);
}

function compilePeer(folder: string): string | null {
  const source = fileURLToPath(new URL('../../bench/peers/blk-engine.c', import.meta.url));
  const binary = join(folder, 'blk-engine');
  try {
    execFileSync('cc', ['-O2', '-o', binary, source], { stdio: 'ignore' });
    return binary;
  } catch {
    return null;
  }
}

function measure(c: Case, peer: string | null, samples: number): void {
  const { sample, close } = device(c);
  const warm = sample(2000);
  const requests = Math.max(Math.round((sample(Math.round(warm / 10)) * SAMPLE_MS) / 1000), 100);
  const ours: number[] = [];
  const theirs: number[] = [];
  const args = [c.file, c.engine, String(c.depth), String(requests), c.direct ? '1' : '0'];
  args.push(c.writes ? 'write' : 'read');
  for (let i = 0; i < samples; i++) {
    ours.push(sample(requests));
    if (peer !== null) theirs.push(Number(execFileSync(peer, args, { encoding: 'utf8' })));
  }
  close();
  const ratio = (of: (values: readonly number[]) => number): string =>
    theirs.length > 0 ? (of(ours) / of(theirs)).toFixed(2) : '-';
  const highest = (values: readonly number[]): number => Math.max(...values);
  const cache = c.direct ? 'O_DIRECT' : 'page cache';
  const columns = [
    c.writes ? 'write' : 'read ',
    c.engine.padEnd(8),
    String(c.depth).padStart(5),
    show(ours),
  ];
  columns.push(theirs.length > 0 ? show(theirs) : '-', ratio(median), ratio(highest));
  console.log([cache.padEnd(10), ...columns].join('  '));
}

function main(): void {
  const samples = Number(process.argv[2] ?? 25);
  const folders = process.argv.length > 3 ? process.argv.slice(3) : ['/dev/shm', tmpdir()];
  for (const parent of folders) {
    const folder = mkdtempSync(join(parent, 'nodevmm-bench-'));
    try {
      const file = join(folder, 'disk');
      makeFile(file);
      const peer = compilePeer(folder);
      console.log(
        `\n${parent}: thousand requests a second, median (lowest - highest); C; ratios of medians and of the highest`,
      );
      for (const direct of parent === '/dev/shm' ? [false] : [false, true]) {
        for (const writes of [false, true]) {
          for (const depth of [1, 32]) {
            for (const engine of ['sync', 'io_uring'] as const) {
              measure({ file, engine, depth, direct, writes }, peer, samples);
            }
          }
        }
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  }
}

main();
