/** A device that a vDPA device serves: what the parent gets from DRIVER_OK to the reset, pauses, and failures. */
import t from 'tap';
import { EFAULT, EIO, ENOMEM } from '../../../src/abi/errno.ts';
import { VIRTIO_BLK_F_CONFIG_WCE, virtio_blk_config } from '../../../src/abi/virtio-blk.ts';
import { DEVICE_NEEDS_RESET, DRIVER_OK, FEATURES_OK } from '../../../src/abi/virtio-pci.ts';
import {
  featureSet,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import type { Datapath } from '../../../src/datapath/datapath.ts';
import { drainEventfd, Eventfd, isReadable, signalEventfd } from '../../../src/host/fd.ts';
import { VhostVdpaDevice } from '../../../src/vdpa/vhost-vdpa-device.ts';
import { vdpaBlk } from '../../../src/virtio/device/blk/frontend-blk.ts';
import { vdpaKind } from '../../../src/virtio/device/vdpa-type.ts';
import type { DeviceHost } from '../../../src/virtio/device.ts';
import { until } from '../../support/fakes/machine.ts';
import { FakeVhostVdpa, PARENT } from '../../support/fakes/vhost-vdpa.ts';
import { DatapathRig } from '../../support/rigs/datapath.ts';

const VERSION_1 = featureSet(VIRTIO_F_VERSION_1);
const PACKED = featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED);
const UP = ['status 0', 'status 1', 'status 3', 'VHOST_SET_FEATURES', 'status 11'];
const MAP = ['begin', 'map', 'end'];
const SERVED = [...UP, ...MAP, 'enable 0', 'enable 1', 'status 15'];
const ENDED = ['status 0', 'begin', 'unmap', 'end'];

/** A disk, its kernel, and two empty queues. */
class Rig implements AsyncDisposable {
  readonly kernel: FakeVhostVdpa;
  readonly queues = new DatapathRig();
  readonly device: VhostVdpaDevice;
  readonly datapath: Datapath;
  /** The configuration space as the driver sees it. */
  readonly shown: Uint8Array;
  updates = 0;

  static async open(change: (kernel: FakeVhostVdpa) => void = () => {}): Promise<Rig> {
    const kernel = new FakeVhostVdpa();
    change(kernel);
    const kind = vdpaKind([vdpaBlk], 256);
    return new Rig(kernel, await VhostVdpaDevice.open('blk0', { path: PARENT }, kind, kernel));
  }

  private constructor(kernel: FakeVhostVdpa, device: VhostVdpaDevice) {
    this.kernel = kernel;
    this.device = device;
    this.shown = Uint8Array.from(device.config);
    const host: DeviceHost = {
      updateConfig: (change) => {
        this.updates++;
        change(new DataView(this.shown.buffer));
      },
      readConfig: () => Uint8Array.from(this.shown),
      post: () => {},
    };
    device.attach(host);
    this.datapath = device.createDatapath(this.queues.events);
  }

  start(features = VERSION_1): Promise<void> {
    const { memory, queues } = this.queues.activation();
    return this.datapath.start({ memory, queues, features, config: this.shown });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.datapath.close();
    this.device.close();
    this.queues[Symbol.dispose]();
  }
}

t.test('what is offered', async (t) => {
  await using rig = await Rig.open((kernel) => {
    kernel.features |= featureSet(3, VIRTIO_F_RING_RESET);
  });
  const { device, datapath } = rig;
  t.equal(device.features, featureSet(3), 'what is the device’s; addresses are the guest’s own');
  t.equal(datapath.withheld & PACKED, 0n);
  const never = featureSet(VIRTIO_F_RING_RESET, VIRTIO_F_NOTIFICATION_DATA);
  t.equal(datapath.withheld & never, never);
  t.same(
    device.queues.map(({ name, maxSize }) => [name, maxSize]),
    [
      ['requestq1', 256],
      ['requestq2', 256],
    ],
    'a power of 2',
  );
});

t.test('from DRIVER_OK to the reset', async (t) => {
  await using rig = await Rig.open();
  const { kernel, datapath, queues } = rig;
  await rig.start();
  t.same(kernel.take(), SERVED);
  const accepted = featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM);
  t.equal(kernel.accepted, accepted, 'the parent’s addresses are translated');
  const { call, kicks } = queues;
  const [first, second] = [...kernel.rings.values()];
  const addresses = [0, 0x1000, 0x2000];
  const [{ fd: kick }] = kicks;
  t.same(first, { num: 16, base: 0, addresses, kick, call: call.fd, enabled: true });
  t.equal(second?.call, -1);
  t.ok(isReadable(kick), 'what was available before is seen');
  t.same([...kernel.iotlb], [[0n, 2n ** 20n]]);
  await datapath.stop();
  t.same(kernel.take(), ENDED, 'nobody asks where the queues were');
  t.same([...kernel.iotlb], []);
  t.match(
    [...kernel.rings.values()],
    [
      { kick: -1, call: -1 },
      { kick: -1, call: -1 },
    ],
  );
  t.equal(kernel.configCall, -1);
  await rig.start(PACKED);
  t.same(kernel.take(), SERVED, 'the next driver');
  t.equal(kernel.rings.get(0)?.base, 0x8000_8000);
  await datapath.close();
  t.same(kernel.take(), [...ENDED, 'close']);
  t.notOk(kernel.opened);
});

t.test('a pause: each queue continues where it stopped', async (t) => {
  await using rig = await Rig.open((kernel) => {
    kernel.bases = new Map([
      [0, 0x8003_8003],
      [1, 0x0007_0007],
    ]);
  });
  const { kernel, datapath } = rig;
  await rig.start(PACKED);
  kernel.take();
  const states = await datapath.stop([0, 1]);
  const asked = ['VHOST_GET_VRING_BASE', 'VHOST_GET_VRING_BASE'];
  t.same(kernel.take(), [...asked, ...ENDED]);
  t.same(
    [...states],
    [
      [0, { nextAvail: 0x8003, nextUsed: 0x8003 }],
      [1, { nextAvail: 7, nextUsed: 7 }],
    ],
  );
  const { memory, queues } = rig.queues.activation(states);
  await datapath.start({ memory, queues, features: PACKED });
  t.equal(kernel.rings.get(0)?.base, 0x8003_8003);
});

t.test('a parent that can is suspended first', async (t) => {
  await using rig = await Rig.open((kernel) => {
    kernel.backendFeatures |= 1n << 4n;
  });
  await rig.start();
  rig.kernel.take();
  await rig.datapath.stop([0, 1]);
  t.equal(rig.kernel.take()[0], 'VHOST_VDPA_SUSPEND');
});

const SUSPENDED = ['VHOST_VDPA_SUSPEND', 'VHOST_GET_VRING_BASE', 'VHOST_GET_VRING_BASE'];
const canResume = (kernel: FakeVhostVdpa): void => {
  kernel.backendFeatures |= 0b11_0000n;
  kernel.bases = new Map([
    [0, 3],
    [1, 7],
  ]);
};

t.test('a parent that can resume keeps its queues', async (t) => {
  await using rig = await Rig.open(canResume);
  const { kernel, datapath, queues } = rig;
  const { memory } = queues.ram;
  await rig.start();
  kernel.take();
  memory.writeU16(0x2002, 2);
  const states = await datapath.stop([0, 1]);
  t.same(kernel.take(), SUSPENDED);
  t.same(states.get(0), { nextAvail: 3, nextUsed: 2 }, 'it has one in flight');
  using other = new Eventfd();
  const again = queues.activation(states);
  for (const { kickFd } of again.queues) drainEventfd(kickFd);
  const rerouted = again.queues.map((queue) => ({ ...queue, callFd: other.fd }));
  await datapath.start({ ...again, queues: rerouted, features: VERSION_1 });
  t.same(kernel.take(), ['VHOST_VDPA_RESUME']);
  t.equal(kernel.rings.get(0)?.call, other.fd);
  t.ok(isReadable(queues.kicks[0].fd), 'kicks of the meantime are repeated');
  await datapath.stop([0, 1]);
  await datapath.reset?.();
  t.same(kernel.take(), [...SUSPENDED, ...ENDED], 'a reset of what is suspended');
  await rig.start();
  kernel.take();
  memory.writeU16(0x2002, 3);
  await datapath.stop([0]);
  t.same(kernel.take(), [...SUSPENDED, ...ENDED], 'the driver abandons one');
});

t.test('queues that differ are set up again, without what was lost', async (t) => {
  await using rig = await Rig.open(canResume);
  const { kernel, datapath, queues } = rig;
  const { memory } = queues.ram;
  await rig.start();
  memory.writeU16(0x1002, 3);
  memory.writeU16(0x2002, 2);
  for (let head = 0; head < 3; head++) {
    memory.writeU16(0x1004 + 2 * head, head);
    memory.writeU32(0x2004 + 8 * head, head);
  }
  const states = await datapath.stop([0, 1]);
  kernel.take();
  const again = queues.activation(states);
  await datapath.start({ ...again, queues: again.queues.slice(0, 1), features: VERSION_1 });
  const served = SERVED.filter((call) => call !== 'enable 1');
  t.same(kernel.take(), [...ENDED, ...served]);
  t.equal(kernel.rings.get(0)?.base, 2, 'the third request is made available again');
});

t.test('a parent that cannot tell where it is serves on during a pause', async (t) => {
  await using rig = await Rig.open((kernel) => {
    kernel.bases = undefined;
  });
  const { kernel, datapath, queues } = rig;
  await rig.start();
  kernel.take();
  t.same(await datapath.stop([0, 1]), new Map());
  t.same(kernel.take(), []);
  t.match(queues.reports, [{ kind: 'log', text: /vhost-vdpa-0 cannot be paused/ }]);
  await rig.start();
  t.same(kernel.take(), [], 'it was never stopped');
  await datapath.stop([0, 1]);
  await datapath.reset?.();
  t.same(kernel.take(), ENDED, 'a reset meanwhile ends it');
  await rig.start();
  t.same(kernel.take(), SERVED);
});

t.test('requests that a parent dropped are made available again', async (t) => {
  await using rig = await Rig.open((kernel) => {
    kernel.bases = new Map([[0, 20]]);
  });
  const { memory } = rig.queues.ram;
  await rig.start();
  // 20 buffers were available, of 16 heads in turn; the parent took all of them, and used the first 18.
  memory.writeU16(0x1002, 20);
  memory.writeU16(0x2002, 18);
  for (let head = 0; head < 16; head++) {
    memory.writeU16(0x1004 + 2 * head, head);
    memory.writeU32(0x2004 + 8 * head, head);
  }
  const states = await rig.datapath.stop([0, 1]);
  t.same(states.get(0), { nextAvail: 18, nextUsed: 18 });
  t.same(
    [0x1008, 0x100a].map((at) => memory.readU16(at)),
    [2, 3],
    'in the entries that it reads next',
  );
});

t.test('a packed ring does not show what was dropped', async (t) => {
  await using rig = await Rig.open((kernel) => {
    kernel.bases = new Map([[0, 0x8000_8001]]);
  });
  await rig.start(PACKED);
  rig.kernel.take();
  await t.rejects(rig.datapath.stop([0, 1]), { code: 'E_VDPA', message: /dropped requests/ });
  t.same([...rig.kernel.iotlb], []);
});

t.test('other interrupts, without a stop', async (t) => {
  await using rig = await Rig.open();
  await rig.start();
  rig.kernel.take();
  using other = new Eventfd();
  const { queues } = rig.queues.activation();
  await rig.datapath.reroute?.(queues.map((queue) => ({ ...queue, callFd: other.fd })));
  t.same(rig.kernel.take(), []);
  t.equal(rig.kernel.rings.get(1)?.call, other.fd);
});

t.test('the configuration: the parent’s changes, and the driver’s', async (t) => {
  await using rig = await Rig.open((kernel) => {
    kernel.features |= featureSet(VIRTIO_BLK_F_CONFIG_WCE);
  });
  const { kernel, device, shown } = rig;
  const { offset } = virtio_blk_config.writeback;
  t.equal(device.configWriteMask[offset], 0xff);
  t.equal(device.configWriteMask.filter((bits) => bits !== 0).length, 1);
  shown[offset] = 1;
  device.configWritten(offset, 1);
  kernel.config[0] = 9;
  await rig.start();
  t.ok(kernel.take().includes(`config ${offset} 1`), 'written before DRIVER_OK');
  t.equal(shown[0], 9, 'changed before DRIVER_OK');
  kernel.config[0] = 11;
  signalEventfd(kernel.configCall);
  await until(() => shown[0] === 11);
  shown[offset] = 0;
  device.configWritten(offset, 1);
  device.configWritten(offset, 1);
  await until(() => kernel.config[offset] === 0);
  t.same(kernel.take(), [`config ${offset} 0`], 'once');
  t.equal(rig.updates, 2);
  kernel.needsReset = DEVICE_NEEDS_RESET;
  signalEventfd(kernel.configCall);
  await until(() => rig.queues.reports.length > 0);
  t.match(rig.queues.reports, [{ kind: 'broken', reason: /vhost-vdpa-0 asks for a reset/ }]);
});

t.test('what a parent refuses', async (t) => {
  for (const [bit, why] of [
    [FEATURES_OK, /does not accept the negotiated features/],
    [DRIVER_OK, /does not accept its queues/],
  ] as const) {
    await using rig = await Rig.open((kernel) => {
      kernel.refused = bit;
    });
    await t.rejects(rig.start(), { code: 'E_VDPA', message: why });
    t.equal(rig.kernel.status, 0);
    t.same([...rig.kernel.iotlb], []);
    rig.kernel.refused = 0;
    await rig.start();
  }
});

t.test('memory that it cannot have', async (t) => {
  for (const [errno, message] of [
    [EFAULT, /--hugepages/],
    [ENOMEM, /ulimit -l/],
  ] as const) {
    await using rig = await Rig.open();
    rig.kernel.fails.set('write', errno);
    await t.rejects(rig.start(), { message });
    t.equal(rig.kernel.take().at(-1), 'status 0');
  }
  await using rig = await Rig.open((kernel) => {
    kernel.lastAddress = 0xffffn;
  });
  await t.rejects(rig.start(), { code: 'E_VDPA', message: /addresses 0x0 to 0xffff only/ });
});

t.test('a ring outside of RAM never reaches the kernel', async (t) => {
  await using rig = await Rig.open();
  const { memory, queues } = rig.queues.activation();
  const outside = queues.map((queue) => ({ ...queue, descriptorArea: 2 ** 40 }));
  const starting = rig.datapath.start({ memory, queues: outside, features: VERSION_1 });
  await t.rejects(starting, { code: 'E_QUEUE_ADDRESS' });
  t.same(rig.kernel.rings.get(0)?.addresses ?? [], []);
});

t.test('a parent that is gone: the stop ends all the same, and says so', async (t) => {
  await using rig = await Rig.open();
  await rig.start();
  rig.kernel.fails.set('VHOST_VDPA_SET_STATUS', EIO);
  await t.rejects(rig.datapath.stop(), { code: 'EIO' });
  t.same([...rig.kernel.iotlb], [], 'without access to guest RAM');
});
