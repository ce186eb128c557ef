/** Threads that look at their queues instead of waiting for kicks: nothing is lost, whichever end looks last. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn, setTimeout as wait } from 'node:timers/promises';
import t from 'tap';
import {
  featureSet,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import type { Datapath, DatapathEvents } from '../../../src/datapath/datapath.ts';
import { InProcessDatapath } from '../../../src/datapath/in-process.ts';
import { QueueWorkerDatapath } from '../../../src/datapath/queue-worker.ts';
import { loadDevice } from '../../../src/machine/user-devices/load-device.ts';
import { createDriverQueue } from '../../../src/testing/create-driver-queue.ts';
import type { DriverQueue } from '../../../src/testing/driver-queue.ts';
import { GuestHeap } from '../../../src/testing/guest-heap.ts';
import { createNetMemoryDevice } from '../../../src/virtio/device/net/net-memory.ts';
import { createHandler } from '../../../src/virtio/device/net/net-memory-handler.ts';
import type { PollMode } from '../../../src/virtio/device-type.ts';
import type { VringState } from '../../../src/virtio/queue/virtqueue.ts';
import { DatapathRig } from '../../support/rigs/datapath.ts';
import { testFolder } from '../../support/rigs/files.ts';

const file = join(testFolder(t), 'own.ts');
writeFileSync(
  file,
  `import { defineDevice } from 'nodevmm/device';
export default defineDevice({ deviceId: 42, queues: { first: { handle() {} }, second: { handle() {} } } });
`,
);
const loaded = await loadDevice(file);
t.teardown(() => loaded[Symbol.dispose]());

/** A network that keeps nothing: its transmit queue answers each chain. */
const { thread } = createNetMemoryDevice({ name: 'net0', network: 'sink' });
const OPTIONS = { network: 'sink', frame: 60 } as const;
const QUEUE = 1;

const THREADS: Readonly<Record<string, (events: DatapathEvents) => Datapath>> = {
  'a queue worker': (events) => {
    if (thread.kind !== 'worker') throw new Error('not in a worker');
    return new QueueWorkerDatapath({ name: 'net0', ...thread }, events);
  },
  'a worker with an event loop': (events) =>
    new QueueWorkerDatapath({ name: 'own', module: loaded.url, options: { options: {} } }, events),
  'this thread': (events) => new InProcessDatapath(() => createHandler(OPTIONS), events),
};

/** A driver of one queue. */
class Driver {
  readonly queue: DriverQueue;
  readonly rig: DatapathRig;
  readonly features: bigint;
  kicks = 0;
  #answered = 0;

  constructor(rig: DatapathRig, bits: readonly number[]) {
    this.rig = rig;
    this.features = featureSet(VIRTIO_F_VERSION_1, ...bits);
    const heap = new GuestHeap(rig.ram.memory, 0x8_0000, 0x10_0000);
    this.queue = createDriverQueue(heap, {
      size: 16,
      features: this.features,
      index: QUEUE,
      kickFd: rig.kicks[QUEUE].fd,
    });
  }

  start(datapath: Datapath, poll: PollMode, state?: VringState): Promise<void> {
    const { config } = this.queue;
    return datapath.start({
      memory: this.rig.ram.memory.share,
      features: this.features,
      queues: [state === undefined ? config : { ...config, state }],
      poll,
    });
  }

  /** Adds a packet, and kicks if the device wants that. */
  post(): void {
    this.queue.add({ readable: [new Uint8Array(72)] });
    if (!this.queue.kick()) return;
    this.kicks++;
    this.rig.kicks[QUEUE].signal();
  }

  /** Resolves when this many more packets are answered. */
  async answers(count: number): Promise<void> {
    this.#answered -= count;
    while (this.#answered < 0) {
      this.#answered += this.queue.completed().length;
      await turn();
    }
  }
}

for (const [where, make] of Object.entries(THREADS)) {
  for (const [format, ...bits] of [
    ['split'],
    ['split, event index', VIRTIO_F_EVENT_IDX],
    ['packed', VIRTIO_F_RING_PACKED],
    ['packed, event index', VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX],
  ] as const) {
    t.test(
      `${where}, ${format}: always needs no kick, and continues where it stopped`,
      async (t) => {
        using rig = new DatapathRig();
        const datapath = make(rig.events);
        const driver = new Driver(rig, bits);
        await driver.start(datapath, 'always');
        for (let i = 0; i < 40; i++) {
          driver.post();
          if (i % 5 === 0) driver.post();
          await driver.answers(i % 5 === 0 ? 2 : 1);
        }
        t.equal(driver.kicks, 0);
        t.ok((await datapath.states?.())?.has(QUEUE), 'it answers messages meanwhile');
        const stopped = (await datapath.stop([QUEUE])).get(QUEUE);
        driver.post();
        await driver.start(datapath, 'off', stopped);
        await driver.answers(1);
        driver.post();
        await driver.answers(1);
        t.ok(driver.kicks > 0, 'and now kicks are wanted');
        const again = (await datapath.stop([QUEUE])).get(QUEUE);
        await driver.start(datapath, 'always', again);
        driver.post();
        await driver.answers(1);
        await datapath.close();
        t.same(rig.reports, []);
      },
    );

    t.test(`${where}, ${format}: adaptive loses nothing when it falls asleep`, async (t) => {
      using rig = new DatapathRig();
      const datapath = make(rig.events);
      const driver = new Driver(rig, bits);
      await driver.start(datapath, 'adaptive');
      // From busy to idle in all degrees: the last of each burst meets the end of the window.
      for (let i = 0; i < 300; i++) {
        const burst = 1 + (i % 3);
        for (let one = 0; one < burst; one++) {
          driver.post();
          for (const end = performance.now() + (i % 23) / 50; performance.now() < end; );
        }
        await driver.answers(burst);
        if (i % 50 === 0) await wait(1);
      }
      await datapath.close();
      t.same(rig.reports, []);
    });
  }
}

t.test('a driver that breaks a rule ends the polling, and the thread sleeps', async (t) => {
  for (const make of Object.values(THREADS)) {
    using rig = new DatapathRig();
    const datapath = make(rig.events);
    const driver = new Driver(rig, []);
    await driver.start(datapath, 'always');
    // §2.7.13: more buffers than the queue has room for.
    rig.ram.memory.writeU16(rig.ram.memory.offset(driver.queue.config.driverArea, 4) + 2, 500);
    t.match(await rig.next(({ kind }) => kind === 'broken'), { reason: /§2\.7\.13/ });
    await datapath.stop();
    await datapath.close();
  }
});
