/** A vDPA device behind the machine's IOMMU: its parent has what the guest maps, and nothing else. */
import t, { type Test } from 'tap';
import { ENOMEM } from '../../../src/abi/errno.ts';
import {
  featureSet,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import { ACCESS_READ, ACCESS_WRITE } from '../../../src/memory/guest-memory.ts';
import { IovaSpace } from '../../../src/memory/iova-space.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { GiB, MiB } from '../../../src/memory/ram-layout.ts';
import { VhostVdpaDevice } from '../../../src/vdpa/vhost-vdpa-device.ts';
import { vdpaBlk } from '../../../src/virtio/device/blk/frontend-blk.ts';
import { vdpaKind } from '../../../src/virtio/device/vdpa-type.ts';
import { FakeVhostVdpa, PARENT } from '../../support/fakes/vhost-vdpa.ts';
import { DatapathRig } from '../../support/rigs/datapath.ts';

const PAGE = 4096;
const RW = ACCESS_READ | ACCESS_WRITE;
const FEATURES = featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM);
const batch = (...calls: readonly string[]): string[] => ['begin', ...calls, 'end'];

async function setUp(t: Test) {
  const kernel = new FakeVhostVdpa();
  const device = await VhostVdpaDevice.open(
    'blk0',
    { path: PARENT },
    vdpaKind([vdpaBlk], 256),
    kernel,
  );
  const ram = new Ram(MiB, 'memfd');
  const space = new IovaSpace(ram.memory);
  // The rings.
  space.map(0, MiB / 2, 32 * PAGE, RW);
  const rig = new DatapathRig();
  const datapath = device.createDatapath(rig.events);
  t.teardown(async () => {
    await datapath.close();
    device.close();
    rig[Symbol.dispose]();
    space.close();
    ram.close();
  });
  const { queues } = rig.activation();
  const start = (): Promise<void> =>
    datapath.start({ memory: space.share, queues, features: FEATURES }, space);
  const mapped = (): number[] => [...kernel.iotlb.keys()].map(Number).sort((a, b) => a - b);
  return { kernel, device, space, datapath, rig, start, mapped };
}

t.test('from DRIVER_OK to the reset', async (t) => {
  const { kernel, device, space, datapath, start, mapped } = await setUp(t);
  t.equal(device.iommuProblem(), undefined);
  space.map(GiB, 0, PAGE, ACCESS_READ);
  await start();
  t.same(mapped(), [0, GiB], 'not all guest RAM');
  t.equal(kernel.accepted & FEATURES, FEATURES);
  t.same(kernel.rings.get(0)?.addresses, [0, 0x1000, 0x2000], 'the driver’s own addresses');
  kernel.take();

  space.map(GiB + PAGE, PAGE, PAGE, RW);
  t.ok(space.settled(), 'the guest waits for the parent');
  await space.settled();
  t.same(kernel.take(), batch('map'));
  for (const page of [2, 3, 4]) space.map(GiB + page * PAGE, page * PAGE, PAGE, RW);
  await space.settled();
  t.same(kernel.take(), batch('map', 'map', 'map'), 'together');
  space.map(2 * GiB, 0, PAGE, 0);
  t.equal(space.settled(), undefined, 'nothing may be done with it');
  space.unmap(GiB, 4 * PAGE);
  await space.settled();
  t.same(kernel.take(), batch('unmap', 'unmap', 'unmap', 'unmap'));
  t.same(mapped(), [0, GiB + 4 * PAGE]);
  space.unmap(GiB + 4 * PAGE, PAGE);
  space.map(GiB + 4 * PAGE, 0, PAGE, RW);
  await space.settled();
  t.same(kernel.take(), [...batch('unmap'), ...batch('map')], 'in the order of the guest');

  await datapath.stop();
  t.same(mapped(), [], 'the parent reaches nothing');
  kernel.take();
  space.map(GiB, 0, PAGE, RW);
  t.equal(space.settled(), undefined, 'it is not served');
  t.same(kernel.take(), []);
  await start();
  t.same(mapped(), [0, GiB, GiB + 4 * PAGE]);
});

t.test('what the guest changes while the parent is set up is not lost', async (t) => {
  const { space, start, mapped } = await setUp(t);
  const starting = start();
  space.map(GiB, 0, PAGE, RW);
  await new Promise((resolve) => setImmediate(resolve));
  space.map(GiB + PAGE, 0, PAGE, RW);
  space.unmap(GiB, PAGE);
  await starting;
  await space.settled();
  t.same(mapped(), [0, GiB + PAGE]);
});

t.test('a parent that is full breaks the device, once', async (t) => {
  const { kernel, space, rig, start, mapped } = await setUp(t);
  await start();
  kernel.fails.set('write', ENOMEM);
  space.map(GiB, 0, PAGE, RW);
  await space.settled();
  space.map(2 * GiB, 0, PAGE, RW);
  await space.settled();
  t.match(rig.reports, [{ kind: 'broken', reason: /ulimit -l/ }]);
  t.equal(rig.reports.length, 1);
  space.unmap(0, 32 * PAGE);
  await space.settled();
  t.same(mapped(), [], 'it still forgets what it must');
});
