/**
 * How much a disk still does once it has to stop, whatever its driver has queued: by aliasing memory one
 * request can be as long as 4 GiB, and a ring holds hundreds of them.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import t from 'tap';
import {
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
} from '../../../../src/abi/virtio-blk.ts';
import {
  featureSet,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { DeviceRig } from '../../../../src/testing/index.ts';
import { createBlkDevice } from '../../../../src/virtio/device/blk/blk.ts';
import { BlkHandler } from '../../../../src/virtio/device/blk/blk-handler.ts';
import { CountingDisk } from '../../../support/fakes/disk.ts';
import {
  BlkDriver,
  blkHeader,
  blkRange,
  blkResult,
  TemporaryFolder,
} from '../../../support/rigs/blk-driver.ts';

/** The most of one call, and the most in flight. */
const LONGEST_CALL = 1.5 * MiB;
const UNDER_WAY = 32 * MiB;
/** A request that goes alone. */
const LONG_MIB = 40;
const QUEUES = 4;

const folder = new TemporaryFolder();
t.teardown(() => folder[Symbol.dispose]());

/** A disk of 64 GiB that has no bytes, with a driver that aliases its memory. */
class HugeDisk implements Disposable {
  readonly rig = new DeviceRig(128 * MiB);
  readonly #device;
  readonly #features: bigint;
  engine: CountingDisk;

  constructor(blocks: boolean, called: () => void = () => {}, ring: readonly number[] = []) {
    this.#device = createBlkDevice({
      name: 'blk0',
      path: folder.file('disk', 4096),
      queues: QUEUES,
      queueSize: 512,
    });
    this.#features =
      this.#device.features | featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC, ...ring);
    this.engine = new CountingDisk(blocks, called);
    const sizes = this.#device.queues.map(({ maxSize }) => maxSize);
    this.rig.start(this.#handler(this.engine), this.#features, sizes);
  }

  #handler(engine: CountingDisk): BlkHandler {
    const { thread } = this.#device;
    if (thread.kind !== 'worker') throw new Error('no worker');
    const options = thread.options as ConstructorParameters<typeof BlkHandler>[0];
    return new BlkHandler(
      { ...options, size: 64 * 1024 * MiB, fileSize: 64 * 1024 * MiB },
      () => engine,
    );
  }

  /** Queues reads of so many MiB. */
  read(queue: number, mebibytes: number, count: number): void {
    for (let i = 0; i < count; i++) {
      this.rig.queue(queue).add({
        readable: [blkHeader(VIRTIO_BLK_T_IN, 0)],
        writable: [...new Array<number>(4 * mebibytes).fill(MiB / 4), 1],
        aliased: true,
      });
    }
  }

  /** Another handler continues with the queues, and its thread is not interrupted. */
  goOn(blocks: boolean): void {
    this.rig.interrupted = false;
    this.engine = new CountingDisk(blocks);
    this.rig.handOver(this.#handler(this.engine), this.#features);
  }

  /** Pumps until so many requests were answered, all of them well. */
  finish(count: number, queues: readonly number[]): void {
    const statuses: number[] = [];
    while (statuses.length < count) {
      const before = statuses.length;
      this.rig.pumpUntil(() => {
        for (const queue of queues) {
          for (const one of this.rig.queue(queue).completed()) statuses.push(blkResult(one).status);
        }
        return statuses.length > before;
      });
    }
    if (statuses.length > count || statuses.some((status) => status !== VIRTIO_BLK_S_OK))
      throw new Error(statuses.join(' '));
  }

  [Symbol.dispose](): void {
    this.rig[Symbol.dispose]();
    this.#device.close();
  }
}

const RINGS: Readonly<Record<string, readonly number[]>> = {
  split: [],
  packed: [VIRTIO_F_RING_PACKED],
  'in order': [VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER],
};

for (const [name, ring] of Object.entries(RINGS)) {
  t.test(
    `an engine that blocks, ${name}: at most one call after a stop is requested`,
    async (t) => {
      let asked = -1;
      using disk: HugeDisk = new HugeDisk(
        true,
        () => {
          if (asked >= 0) return;
          asked = 1;
          disk.rig.interrupted = true;
        },
        ring,
      );
      for (let queue = 0; queue < QUEUES; queue++) disk.read(queue, 64, 8);
      for (let queue = 0; queue < QUEUES; queue++) disk.rig.kick(queue);
      disk.rig.pump();
      // The worker kicks no queue then; even if it did, each would cost one call at most.
      t.ok(disk.engine.calls.length <= 2 * QUEUES, `${disk.engine.calls.length} calls`);
      const before = disk.engine.bytes;
      const states = disk.rig.stop();
      t.equal(disk.engine.bytes, before, 'a stop moves nothing');
      for (const { nextAvail, nextUsed } of states.values()) {
        t.equal(nextAvail, nextUsed, 'a partly executed request was given back');
      }
    },
  );

  t.test(`an engine with requests in flight, ${name}: a stop waits for one call`, async (t) => {
    using disk = new HugeDisk(false, () => {}, ring);
    for (let queue = 0; queue < QUEUES; queue++) disk.read(queue, 64, 8);
    for (let queue = 0; queue < QUEUES; queue++) disk.rig.kick(queue);
    disk.rig.pump();
    t.ok(disk.engine.most <= LONGEST_CALL, 'one that is too long goes alone');
    const before = disk.engine.calls.length;
    const states = disk.rig.stop();
    t.ok(disk.engine.calls.length <= before + 1, `${disk.engine.calls.length - before} calls`);
    for (const { nextAvail, nextUsed } of states.values()) t.equal(nextAvail, nextUsed);
  });

  for (const blocks of [true, false]) {
    t.test(`${name}, ${blocks}: the next datapath executes all of them`, async (t) => {
      using disk: HugeDisk = new HugeDisk(
        blocks,
        () => {
          disk.rig.interrupted = true;
        },
        ring,
      );
      for (let queue = 0; queue < QUEUES; queue++) disk.read(queue, LONG_MIB, 3);
      for (let queue = 0; queue < QUEUES; queue++) disk.rig.kick(queue);
      disk.goOn(blocks);
      disk.finish(3 * QUEUES, [0, 1, 2, 3]);
      t.equal(disk.engine.bytes, 3 * QUEUES * LONG_MIB * MiB);
      t.ok(Math.max(...disk.engine.calls) <= LONGEST_CALL);
    });
  }
}

t.test('what is in flight is bounded, and all of it is answered', async (t) => {
  using disk = new HugeDisk(false);
  disk.engine.held = true;
  for (let queue = 0; queue < QUEUES; queue++) disk.read(queue, 1, 60);
  for (let queue = 0; queue < QUEUES; queue++) disk.rig.kick(queue);
  disk.rig.pump();
  t.equal(disk.engine.inFlight, UNDER_WAY);
  disk.engine.held = false;
  disk.engine.submit();
  disk.finish(60 * QUEUES, [0, 1, 2, 3]);
  t.ok(disk.engine.most <= UNDER_WAY, `${disk.engine.most} bytes`);
});

t.test('a turn ends after 16 MiB, for the other queues', async (t) => {
  using disk = new HugeDisk(true);
  disk.read(0, 1, 60);
  disk.rig.kick(0);
  t.ok(disk.engine.bytes <= 17 * MiB, `${disk.engine.bytes} bytes`);
  disk.read(1, 60, 1);
  disk.finish(60, [0]);
  const before = disk.engine.bytes;
  disk.rig.kick(1);
  t.ok(disk.engine.bytes - before <= 17 * MiB, 'of one request, too');
  disk.finish(1, [1]);
});

t.test('at most eight short requests are executed once the thread is needed', async (t) => {
  using disk = new HugeDisk(true);
  for (let i = 0; i < 60; i++) {
    disk.rig.queue(0).add({ readable: [blkHeader(VIRTIO_BLK_T_FLUSH, 0)], writable: [1] });
  }
  disk.rig.interrupted = true;
  disk.rig.kick(0);
  t.equal(disk.engine.calls.length, 8);
  disk.rig.interrupted = false;
  disk.finish(60, [0]);
});

for (const type of [VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_DISCARD]) {
  t.test(`ranges of a request of type ${type} are left in the middle`, async (t) => {
    using disk: HugeDisk = new HugeDisk(true, () => {
      disk.rig.interrupted = true;
    });
    const ranges = Array.from({ length: 32 }, () => blkRange(0, 2 ** 16));
    const readable = [blkHeader(type, 0), Buffer.concat(ranges)];
    disk.rig.queue(0).add({ readable, writable: [1] });
    disk.rig.kick(0);
    disk.rig.stop();
    t.ok(disk.engine.bytes <= UNDER_WAY, `${disk.engine.bytes} bytes of 1 GiB`);
  });
}

for (const engine of ['sync', 'io_uring'] as const) {
  t.test(`long requests in odd segments arrive whole (${engine})`, async (t) => {
    const content = randomBytes(6 * MiB);
    const path = folder.file('content', content);
    using disk = new BlkDriver(path, { engine, ring: [VIRTIO_F_INDIRECT_DESC] });
    const lengths = [1, 511, 700_001, 3 * MiB - 700_513, MiB + 1, MiB - 1, 1];
    const read = disk.send([blkHeader(VIRTIO_BLK_T_IN, 0)], lengths);
    t.equal(read.status, VIRTIO_BLK_S_OK);
    t.equal(Buffer.compare(read.data, content.subarray(0, 5 * MiB)), 0);
    const data = randomBytes(4 * MiB + 512);
    const cuts = [0, 3, 1_300_000, 1_300_001, data.length];
    const parts = cuts.slice(1).map((end, i) => data.subarray(cuts[i], end));
    const written = disk.send([blkHeader(VIRTIO_BLK_T_OUT, 1), ...parts], [1]);
    t.equal(written.status, VIRTIO_BLK_S_OK);
    const after = readFileSync(path);
    t.equal(Buffer.compare(after.subarray(512, 512 + data.length), data), 0);
    t.equal(Buffer.compare(after.subarray(0, 512), content.subarray(0, 512)), 0);
    t.equal(Buffer.compare(after.subarray(5 * MiB), content.subarray(5 * MiB)), 0);
  });
}
