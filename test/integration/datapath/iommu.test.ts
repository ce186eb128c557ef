/** A device behind an IOMMU: what it may not reach stops it, and is reported. */
import t, { type Test } from 'tap';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import type { DatapathEvents } from '../../../src/datapath/datapath.ts';
import { InProcessDatapath } from '../../../src/datapath/in-process.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import {
  ACCESS_READ,
  ACCESS_WRITE,
  type DeniedAccess,
  GuestMemory,
} from '../../../src/memory/guest-memory.ts';
import { IovaSpace } from '../../../src/memory/iova-space.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { GiB, MiB } from '../../../src/memory/ram-layout.ts';
import { createDriverQueue } from '../../../src/testing/create-driver-queue.ts';
import { GuestHeap } from '../../../src/testing/guest-heap.ts';
import { createRngDevice } from '../../../src/virtio/device/rng/rng.ts';
import type { QueueHandler } from '../../../src/virtio/device.ts';

/** Where the driver has its rings and buffers: not where they are in RAM. */
const RINGS = 3 * GiB;
const RW = ACCESS_READ | ACCESS_WRITE;

function setUp(t: Test, ...bits: number[]) {
  const features = featureSet(VIRTIO_F_VERSION_1, ...bits);
  const ram = new Ram(4 * MiB, 'memfd');
  const space = new IovaSpace(ram.memory);
  space.map(RINGS, MiB, MiB, RW);
  const memory = new GuestMemory(space.share);
  const driver = createDriverQueue(new GuestHeap(memory, RINGS, RINGS + MiB), {
    index: 0,
    size: 8,
    features,
  });
  const kick = new Eventfd();
  const broken: [string, DeniedAccess | undefined][] = [];
  const events: DatapathEvents = {
    broken: (reason, denied) => broken.push([reason, denied]),
    log: (text) => t.fail(text),
    message: () => {},
  };
  const device = createRngDevice({ name: 'rng0' });
  const datapath = new InProcessDatapath(() => device.createHandler?.() as QueueHandler, events);
  const start = (): Promise<void> =>
    datapath.start({
      memory: space.share,
      features,
      queues: [{ ...driver.config, kickFd: kick.fd }],
    });
  t.teardown(async () => {
    await datapath.close();
    kick.close();
    memory.detach();
    space.close();
    ram.close();
  });
  return { ram: ram.memory, space, memory, driver, start, broken };
}

for (const [format, bits] of [
  ['split', []],
  ['packed', [VIRTIO_F_RING_PACKED]],
] as const) {
  t.test(`requests are served through the mappings (${format})`, async (t) => {
    const { driver, start, broken } = setUp(t, ...bits);
    driver.add({ writable: [5000] });
    await start();
    const [done] = driver.completed();
    t.equal(done?.written, 5000);
    t.ok(new Set(done?.data).size > 100);
    t.same(broken, []);
  });

  t.test(`a buffer that is not mapped, or only for reading (${format})`, async (t) => {
    for (const access of [0, ACCESS_READ]) {
      const { ram, space, memory, driver, start, broken } = setUp(t, ...bits);
      driver.add({ writable: [8192] });
      // The buffer of two pages is the last thing that was allocated.
      const descriptors = driver.config.descriptorArea;
      const buffer = memory.readU64(memory.offset(descriptors, 16));
      space.unmap(RINGS, MiB);
      const pages = (buffer - RINGS) / 4096;
      space.map(RINGS, MiB, (pages + 1) * 4096, RW);
      if (access !== 0) space.map(buffer + 4096, MiB + (pages + 1) * 4096, 4096, access);
      const before = Buffer.from(ram.bytes(MiB + pages * 4096, 8192));
      await start();
      t.match(broken, [[/queue 0: the IOMMU does not map a buffer/, { write: true }]]);
      t.equal(broken[0]?.[1]?.address, buffer + 4096, 'the first page that was denied');
      t.same(Buffer.from(ram.bytes(MiB + pages * 4096, 8192)), before, 'nothing was written');
    }
  });

  t.test(`rings that the device may not write to (${format})`, async (t) => {
    const { space, start } = setUp(t, ...bits);
    space.unmap(RINGS, MiB);
    space.map(RINGS, MiB, MiB, ACCESS_READ);
    await t.rejects(start(), { name: 'PeerError', code: 'E_QUEUE_ADDRESS' });
  });
}
