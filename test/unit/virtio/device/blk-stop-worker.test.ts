/** A disk whose driver keeps its thread busy for hours: stopped where it runs, in a queue worker. */
import t from 'tap';
import { VIRTIO_BLK_T_IN } from '../../../../src/abi/virtio-blk.ts';
import {
  featureSet,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { QueueWorkerDatapath } from '../../../../src/datapath/queue-worker.ts';
import { Eventfd } from '../../../../src/host/fd.ts';
import { Ram } from '../../../../src/memory/ram.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { createDriverQueue, GuestHeap } from '../../../../src/testing/index.ts';
import { createBlkDevice } from '../../../../src/virtio/device/blk/blk.ts';
import { CALLS, GO, type WatchedDiskOptions } from '../../../support/fakes/disk.ts';
import { blkHeader, TemporaryFolder } from '../../../support/rigs/blk-driver.ts';

const QUEUES = 16;
const SIZE = 256;
const SEGMENT = 16 * MiB;
/** 4080 MiB a request. */
const SEGMENTS = 255;
const REQUESTS = 16;

for (const order of ['stop', 'close'] as const) {
  t.test(`${order} of 16 queues with 16 reads of 4 GiB each: one call is waited for`, async (t) => {
    const folder = new TemporaryFolder();
    const device = createBlkDevice({
      name: 'blk0',
      path: folder.file('disk', 512),
      queues: QUEUES,
      queueSize: SIZE,
    });
    if (device.thread.kind !== 'worker') throw new Error('no worker');
    const blk = device.thread.options as WatchedDiskOptions['blk'];
    const size = 8192 * MiB;
    const words = new Int32Array(new SharedArrayBuffer(8));
    const ram = new Ram(96 * MiB);
    const heap = new GuestHeap(ram.memory, MiB, 96 * MiB);
    const features = featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC);
    const room = heap.allocate(SEGMENT);
    heap.allocate = (
      (allocate) => (length: number) =>
        length === SEGMENT ? room : allocate(length)
    )(heap.allocate.bind(heap));
    const kicks = Array.from({ length: QUEUES }, () => new Eventfd());
    const drivers = kicks.map((kick, index) => {
      const driver = createDriverQueue(heap, {
        index,
        size: SIZE,
        features,
        kickFd: kick.fd,
        callFd: -1,
      });
      for (let i = 0; i < REQUESTS; i++) {
        driver.add({
          readable: [blkHeader(VIRTIO_BLK_T_IN, 0)],
          writable: [...new Array<number>(SEGMENTS).fill(SEGMENT), 1],
          aliased: true,
        });
      }
      driver.kick();
      return driver;
    });
    const reports: string[] = [];
    const datapath = new QueueWorkerDatapath(
      {
        name: 'blk0',
        module: new URL('../../../support/fakes/disk.js', import.meta.url).href,
        options: { blk: { ...blk, size, fileSize: size, chainLength: SIZE + 2 }, words },
      },
      {
        broken: (reason) => reports.push(reason),
        log: (text) => reports.push(text),
        message: () => {},
      },
    );
    const queues = drivers.map(({ config }) => config);
    // Each queue is kicked once at the start: the first call is in progress when this is sent.
    const starting = datapath.start({ memory: ram.memory.share, features, queues });
    starting.catch(() => {});
    while (Atomics.load(words, CALLS) === 0) await new Promise((resolve) => setImmediate(resolve));
    const before = Atomics.load(words, CALLS);
    const stopping = order === 'stop' ? datapath.stop() : datapath.close();
    Atomics.store(words, GO, 1);
    Atomics.notify(words, GO);
    await stopping;
    const calls = Atomics.load(words, CALLS) - before;
    t.ok(calls <= 1, `${calls} calls of 1 MiB, of ${QUEUES * REQUESTS * SEGMENTS * 16}`);
    t.same(reports, []);
    await datapath.close();
    ram[Symbol.dispose]();
    for (const kick of kicks) kick.close();
    device.close();
    folder[Symbol.dispose]();
  });
}
