/** The kernel's copy of what an IOMMU permits: what it gets, asks for, and must forget. */
import t, { type Test } from 'tap';
import * as abi from '../../../src/abi/vhost.ts';
import * as ring from '../../../src/abi/virtio-ring.ts';
import { featureSet } from '../../../src/abi/virtio-ring.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import { ACCESS_READ, ACCESS_WRITE, type DeniedAccess } from '../../../src/memory/guest-memory.ts';
import { IovaSpace } from '../../../src/memory/iova-space.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { GiB, MiB } from '../../../src/memory/ram-layout.ts';
import type { IotlbMessage } from '../../../src/vhost/iotlb-message.ts';
import { VhostDatapath } from '../../../src/vhost/vhost-datapath.ts';
import { FakeVhost } from '../../support/fakes/vhost.ts';
import { FakeDatapath } from '../../support/rigs/machine-device.ts';

const PAGE = 4096;
const RW = ACCESS_READ | ACCESS_WRITE;
const FEATURES = featureSet(ring.VIRTIO_F_VERSION_1, ring.VIRTIO_F_ACCESS_PLATFORM);
/** Where the driver has its rings: not where they are in RAM. */
const RINGS = 3 * GiB;
const ALL = [
  [0, 2 ** 64 - 2048],
  [2 ** 64 - 2048, 2048],
] as const;

function setUp(t: Test) {
  const ram = new Ram(4 * MiB, 'memfd');
  const space = new IovaSpace(ram.memory);
  space.map(RINGS, MiB, 16 * PAGE, RW);
  const kernel = new FakeVhost(FEATURES);
  const broken: [string, DeniedAccess | undefined][] = [];
  const events = {
    broken: (reason: string, denied?: DeniedAccess) => broken.push([reason, denied]),
    log: (text: string) => t.fail(text),
    message: () => {},
  };
  const kick = new Eventfd();
  const datapath = new VhostDatapath([kernel.backend([0])], new FakeDatapath(events), events);
  t.teardown(async () => {
    await datapath.close();
    kick.close();
    space.close();
    ram.close();
  });
  const areas = {
    descriptorArea: RINGS,
    driverArea: RINGS + PAGE,
    deviceArea: RINGS + 2 * PAGE,
  };
  const queues = [{ index: 0, size: 16, ...areas, kickFd: kick.fd, callFd: -1 }];
  const start = (): Promise<void> =>
    datapath.start({ memory: space.share, features: FEATURES, queues }, space);
  /** What the kernel was sent since the last time. */
  const sent = (): IotlbMessage[] => kernel.iotlb.splice(0);
  return { ram: ram.memory, space, kernel, datapath, broken, start, sent };
}

const update = (iova: number, size: number, uaddr: number, perm: number): IotlbMessage => ({
  type: abi.VHOST_IOTLB_UPDATE,
  iova,
  size,
  uaddr,
  perm,
});
const invalidate = (iova: number, size: number): IotlbMessage => ({
  ...update(iova, size, 0, 0),
  type: abi.VHOST_IOTLB_INVALIDATE,
});

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((done) => setTimeout(done, 1));
}

t.test('rings are where the driver says, and known before they run', async (t) => {
  const { ram, kernel, start, sent, datapath } = setUp(t);
  await start();
  t.equal(kernel.backendFeatures, featureSet(abi.VHOST_BACKEND_F_IOTLB_MSG_V2));
  t.equal(kernel.acked, FEATURES);
  t.same(kernel.regions, [], 'no other way to RAM');
  t.ok(kernel.calls.includes('VHOST_SET_MEM_TABLE'), 'which is empty');
  t.same(kernel.addresses.get(0), { desc: RINGS, avail: RINGS + PAGE, used: RINGS + 2 * PAGE });
  const rings = update(RINGS, 16 * PAGE, ram.address + MiB, RW);
  t.same(sent(), [rings, rings, rings], 'for each area');
  kernel.bases.set(0, 5);
  ram.writeU16(MiB + 2 * PAGE + 2, 5);
  t.same([...(await datapath.stop())], [[0, { nextAvail: 5, nextUsed: 5 }]]);
});

t.test('what the guest maps and unmaps', async (t) => {
  const { ram, space, start, sent, datapath } = setUp(t);
  await start();
  sent();
  space.map(PAGE, 7 * PAGE, 2 * PAGE, ACCESS_READ);
  t.same(sent(), [update(PAGE, 2 * PAGE, ram.address + 7 * PAGE, ACCESS_READ)]);
  space.unmap(PAGE, 2 * PAGE);
  t.same(sent(), [invalidate(PAGE, 2 * PAGE)]);
  space.unmap(PAGE, 2 * PAGE);
  t.same(sent(), [], 'nothing was there');
  space.bypass();
  t.same(sent(), [invalidate(0, space.share.size), update(0, 4 * MiB, ram.address, RW)]);
  await datapath.stop();
  sent();
  space.clear();
  t.same(sent(), [], 'it is not served');
});

t.test('a miss is answered', async (t) => {
  const { ram, space, kernel, start, sent } = setUp(t);
  space.map(PAGE, 7 * PAGE, 2 * PAGE, ACCESS_READ);
  await start();
  sent();
  kernel.miss(2 * PAGE + 5, ACCESS_READ);
  await until(() => kernel.iotlb.length > 0);
  t.same(sent(), [update(PAGE, 2 * PAGE, ram.address + 7 * PAGE, ACCESS_READ)]);
});

t.test('a miss that is not permitted breaks the device, once', async (t) => {
  for (const [iova, perm, write] of [
    [5 * PAGE + 7, ACCESS_READ, false],
    [PAGE + 7, ACCESS_WRITE, true],
    [2 ** 63, ACCESS_READ, false],
  ] as const) {
    const { space, kernel, start, sent, broken, datapath } = setUp(t);
    space.map(PAGE, 7 * PAGE, PAGE, ACCESS_READ);
    await start();
    sent();
    kernel.take();
    for (let i = 0; i < 100; i++) kernel.miss(iova, perm);
    await until(() => broken.length > 0);
    await new Promise((done) => setTimeout(done, 5));
    t.match(broken, [[/does not permit/, { address: iova - (iova % PAGE), write }]]);
    t.equal(broken.length, 1);
    t.same(kernel.take(), ['halt'], 'it asks for nothing more');
    t.same(sent(), []);
    await datapath.stop();
    t.same(
      sent(),
      [
        ...ALL.map(([start, size]) => update(start, size, 0, 0)),
        ...ALL.map(([start, size]) => invalidate(start, size)),
      ],
      'the kernel keeps no miss',
    );
  }
});

t.test('rings that the device may not write', async (t) => {
  const { space, start } = setUp(t);
  space.unmap(RINGS, 16 * PAGE);
  space.map(RINGS, MiB, 16 * PAGE, ACCESS_READ);
  await t.rejects(start(), { name: 'PeerError', code: 'E_QUEUE_ADDRESS' });
});
