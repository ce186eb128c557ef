/** What the kernel serves, what stays with the device's own datapath, and the way back. */
import t from 'tap';
import { VIRTIO_NET_F_MRG_RXBUF } from '../../../src/abi/virtio-net.ts';
import * as ring from '../../../src/abi/virtio-ring.ts';
import { featureSet } from '../../../src/abi/virtio-ring.ts';
import { Eventfd, isReadable, signalEventfd } from '../../../src/host/fd.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { VhostDatapath } from '../../../src/vhost/vhost-datapath.ts';
import type { QueueConfig } from '../../../src/virtio/queue/virtqueue.ts';
import { FakeVhost } from '../../support/fakes/vhost.ts';
import { FakeDatapath } from '../../support/rigs/machine-device.ts';

const FEATURES = featureSet(
  ring.VIRTIO_F_VERSION_1,
  ring.VIRTIO_F_INDIRECT_DESC,
  ring.VIRTIO_F_EVENT_IDX,
  VIRTIO_NET_F_MRG_RXBUF,
);
/** A feature of the device's own. */
const OTHER = featureSet(3);

class Rig implements AsyncDisposable {
  readonly ram = new Ram(MiB);
  readonly kicks = [0, 1, 2].map(() => new Eventfd());
  readonly broken: string[] = [];
  readonly kernel: FakeVhost;
  readonly fallback: FakeDatapath;
  readonly datapath: VhostDatapath;

  constructor(features = FEATURES) {
    this.kernel = new FakeVhost(features);
    const events = {
      broken: (reason: string) => this.broken.push(reason),
      log: () => {},
      message: () => {},
    };
    this.fallback = new FakeDatapath(events);
    this.datapath = new VhostDatapath([this.kernel.backend([0, 1])], this.fallback, events);
    this.kernel.take();
  }

  queue(index: number): QueueConfig {
    const at = 0x1_0000 * index;
    const areas = { descriptorArea: at, driverArea: at + 0x1000, deviceArea: at + 0x2000 };
    const kickFd = this.kicks[index]?.fd ?? -1;
    return { index, size: 16, ...areas, kickFd, callFd: -1 };
  }

  start(...indices: number[]): Promise<void> {
    const queues = indices.map((index) => this.queue(index));
    const features = FEATURES | OTHER;
    return this.datapath.start({ memory: this.ram.memory.share, features, queues });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.datapath.close();
    for (const kick of this.kicks) kick.close();
    this.ram[Symbol.dispose]();
  }
}

t.test('the kernel has the pair, the device its control queue', async (t) => {
  await using rig = new Rig();
  await rig.start(0, 1, 2);
  t.same(rig.fallback.take(), ['start 2']);
  t.equal(rig.kernel.acked, FEATURES, 'only what is the kernel’s affair');
  t.equal(rig.kernel.calls.at(-1), 'run');
  t.ok(isReadable(rig.kicks[0]?.fd ?? -1), 'what was available before is seen');
  t.notOk(isReadable(rig.kicks[2]?.fd ?? -1));
  rig.kernel.bases.set(0, 30);
  rig.kernel.bases.set(1, 40);
  rig.ram.memory.writeU16(0x2002, 30);
  rig.ram.memory.writeU16(0x1_2002, 40);
  rig.kernel.take();
  const states = await rig.datapath.stop();
  t.equal(rig.kernel.take()[0], 'halt', 'before anything is asked');
  t.same(
    [...states],
    [
      [0, { nextAvail: 30, nextUsed: 30 }],
      [1, { nextAvail: 40, nextUsed: 40 }],
      [2, { nextAvail: 12, nextUsed: 12 }],
    ],
  );
  rig.datapath.post('hello');
  t.same(rig.fallback.posted, ['hello']);
});

t.test('half a pair is not served by the kernel', async (t) => {
  await using rig = new Rig();
  await rig.start(0, 2);
  t.same(rig.fallback.take(), ['start 0 2']);
  t.same(rig.kernel.take(), []);
});

t.test('what the kernel lacks is withheld', async (t) => {
  await using full = new Rig();
  t.equal(full.datapath.withheld & FEATURES, 0n);
  const packed = featureSet(ring.VIRTIO_F_RING_PACKED);
  t.equal(full.datapath.withheld & packed, packed);
  await using poor = new Rig(featureSet(ring.VIRTIO_F_VERSION_1));
  t.equal(poor.datapath.withheld & FEATURES, FEATURES & ~featureSet(ring.VIRTIO_F_VERSION_1));
});

t.test('a start that fails leaves nothing behind', async (t) => {
  for (const fails of ['VHOST_SET_MEM_TABLE', 'VHOST_SET_VRING_KICK', 'run']) {
    await using rig = new Rig();
    rig.kernel.fails = fails;
    await t.rejects(rig.start(0, 1, 2), fails);
    t.same(rig.fallback.take(), ['start 2', 'stop'], fails);
    rig.kernel.fails = '';
    await rig.start(0, 1, 2);
    t.equal(rig.kernel.calls.at(-1), 'run', 'and may be tried again');
  }
});

t.test('a queue that lies outside of RAM is an error of the driver', async (t) => {
  await using rig = new Rig();
  const queues = [{ ...rig.queue(0), deviceArea: MiB }, rig.queue(1)];
  const starting = rig.datapath.start({ memory: rig.ram.memory.share, features: FEATURES, queues });
  await t.rejects(starting, { code: 'E_QUEUE_ADDRESS' });
  t.notOk(rig.kernel.calls.includes('run'));
});

t.test('what the kernel finds broken breaks the device', async (t) => {
  await using rig = new Rig();
  await rig.start(0, 1);
  signalEventfd(rig.kernel.files.get('VHOST_SET_VRING_ERR 0') ?? -1);
  while (rig.broken.length === 0) await new Promise((done) => setTimeout(done, 1));
  t.match(rig.broken[0], /invalid ring or buffer/);
});
