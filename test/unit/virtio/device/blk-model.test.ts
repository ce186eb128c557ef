/**
 * Random requests in random layouts against a model of a disk, on both queue formats and engines
 * side by side; well-formed ones, and ones with hostile headers and lengths (virtio 1.3 §5.2.6).
 */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import t from 'tap';
import * as abi from '../../../../src/abi/virtio-blk.ts';
import { VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED } from '../../../../src/abi/virtio-ring.ts';
import {
  BlkDriver,
  type BlkResult,
  blkHeader,
  blkRange,
  TemporaryFolder,
} from '../../../support/rigs/blk-driver.ts';

const { VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP } = abi;
const SECTORS = 40;
const SIZE = SECTORS * 512;
const RUNS = Number(process.env.NODEVMM_FUZZ_RUNS ?? 30);

interface Command {
  readonly type: number;
  readonly sector: bigint;
  /** Bytes of data. */
  readonly length: number;
  readonly seed: number;
  /** Where header, data and status are cut into descriptors, as fractions of the whole. */
  readonly cuts: readonly number[];
}

const command: fc.Arbitrary<Command> = fc.record({
  type: fc.oneof(
    { weight: 4, arbitrary: fc.constantFrom(abi.VIRTIO_BLK_T_IN, abi.VIRTIO_BLK_T_OUT) },
    {
      weight: 2,
      arbitrary: fc.constantFrom(
        abi.VIRTIO_BLK_T_FLUSH,
        abi.VIRTIO_BLK_T_WRITE_ZEROES,
        abi.VIRTIO_BLK_T_GET_ID,
      ),
    },
    { weight: 1, arbitrary: fc.nat(0xffffffff) },
  ),
  sector: fc.oneof(
    { weight: 6, arbitrary: fc.bigInt(0n, BigInt(SECTORS)) },
    { weight: 1, arbitrary: fc.bigInt(0n, 2n ** 64n - 1n) },
  ),
  length: fc.oneof(
    { weight: 6, arbitrary: fc.nat(16).map((sectors) => sectors * 512) },
    { weight: 1, arbitrary: fc.nat(3000) },
  ),
  seed: fc.nat(255),
  cuts: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 5 }),
});

function cut(total: number, cuts: readonly number[]): number[] {
  const ends = [...new Set(cuts.map((at) => Math.floor(at * total)))].filter((end) => end > 0);
  const sorted = [...ends.filter((end) => end < total).sort((a, b) => a - b), total];
  return sorted.map((end, i) => end - (i === 0 ? 0 : (sorted[i - 1] as number)));
}

function payload({ type, length, seed, sector }: Command): Uint8Array {
  if (type === abi.VIRTIO_BLK_T_WRITE_ZEROES) return blkRange(sector, length >> 9, seed & 1);
  return Uint8Array.from({ length }, (_, i) => (i * 13 + seed) & 0xff);
}

/** A disk, as specified. */
class Model {
  readonly bytes = new Uint8Array(SIZE);

  /** Returns the status, and what is read. */
  apply(command: Command): { status: number; data?: Uint8Array } {
    const { type, sector, length } = command;
    const start = sector * 512n;
    const fits = length % 512 === 0 && start + BigInt(length) <= BigInt(SIZE);
    const from = Number(start);
    switch (type) {
      case abi.VIRTIO_BLK_T_IN:
        if (!fits) return { status: VIRTIO_BLK_S_IOERR };
        return { status: VIRTIO_BLK_S_OK, data: this.bytes.slice(from, from + length) };
      case abi.VIRTIO_BLK_T_OUT:
        if (!fits) return { status: VIRTIO_BLK_S_IOERR };
        this.bytes.set(payload(command), from);
        return { status: VIRTIO_BLK_S_OK };
      case abi.VIRTIO_BLK_T_WRITE_ZEROES: {
        const whole = length - (length % 512);
        if (start + BigInt(whole) > BigInt(SIZE)) return { status: VIRTIO_BLK_S_IOERR };
        this.bytes.fill(0, from, from + whole);
        return { status: VIRTIO_BLK_S_OK };
      }
      case abi.VIRTIO_BLK_T_FLUSH:
      case abi.VIRTIO_BLK_T_GET_ID:
        return { status: VIRTIO_BLK_S_OK };
      default:
        return { status: VIRTIO_BLK_S_UNSUPP };
    }
  }
}

function send(disk: BlkDriver, command: Command): BlkResult {
  const reads = command.type === abi.VIRTIO_BLK_T_IN || command.type === abi.VIRTIO_BLK_T_GET_ID;
  const header = blkHeader(command.type, command.sector);
  const out = reads ? header : new Uint8Array([...header, ...payload(command)]);
  let at = 0;
  const readable = cut(out.length, command.cuts).map((length) => {
    at += length;
    return out.subarray(at - length, at);
  });
  return disk.send(readable, cut((reads ? command.length : 0) + 1, command.cuts));
}

const folder = new TemporaryFolder(true);
t.teardown(() => folder[Symbol.dispose]());

const KINDS = (['sync', 'io_uring'] as const).flatMap((engine) => [
  { engine, ring: [VIRTIO_F_INDIRECT_DESC] },
  { engine, ring: [VIRTIO_F_RING_PACKED] },
]);

t.test('§5.2.6 random requests do what a model of the disk does', async (t) => {
  const run = (commands: readonly Command[]): void => {
    const disks = KINDS.map((kind, i) => {
      const path = folder.file(`model${i}`, SIZE);
      return { path, disk: new BlkDriver(path, kind) };
    });
    try {
      const model = new Model();
      for (const command of commands) {
        // Nothing of these types was offered: see the tests by clause.
        if (command.type === abi.VIRTIO_BLK_T_DISCARD) continue;
        const expected = model.apply(command);
        for (const { disk } of disks) {
          const result = send(disk, command);
          if (result.status !== expected.status) {
            throw new Error(`status ${result.status} instead of ${expected.status}`);
          }
          if (expected.data !== undefined && Buffer.compare(result.data, expected.data) !== 0) {
            throw new Error('other data than the model');
          }
        }
      }
      for (const { path, disk } of disks) {
        if (disk.rig.brokenReason !== undefined) throw new Error(disk.rig.brokenReason);
        if (Buffer.compare(readFileSync(path), model.bytes) !== 0) {
          throw new Error('the file differs from the model');
        }
      }
    } finally {
      for (const { disk } of disks) disk[Symbol.dispose]();
    }
  };
  fc.assert(fc.property(fc.array(command, { maxLength: 25 }), run), { numRuns: RUNS });
  t.pass(`${RUNS} sequences`);
});

t.test('§5.2.6 whatever the bytes of a chain, it is answered or breaks the device', async (t) => {
  const parts = fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 4 });
  const rooms = fc.array(fc.nat(40), { maxLength: 4 });
  const path = folder.file('hostile', SIZE);
  const run = (readable: Uint8Array[], writable: number[], engine: 'sync' | 'io_uring'): void => {
    if (readable.length + writable.length === 0) return;
    const disk = new BlkDriver(path, { engine });
    try {
      const room = writable.reduce((sum, length) => sum + length, 0);
      disk.rig.queue(0).add({ readable, writable });
      disk.rig.kick(0);
      let answered = 0;
      disk.rig.pumpUntil(() => {
        answered += disk.rig.brokenReason === undefined ? disk.rig.queue(0).completed().length : 1;
        return answered > 0;
      });
      const broken = disk.rig.brokenReason !== undefined;
      if (broken !== (room === 0)) throw new Error(`broken: ${disk.rig.brokenReason}`);
    } finally {
      disk[Symbol.dispose]();
    }
  };
  const engines = fc.constantFrom('sync' as const, 'io_uring' as const);
  fc.assert(fc.property(parts, rooms, engines, run), { numRuns: RUNS * 3 });
  t.equal(readFileSync(path).length, SIZE);
});
