/** A backend behind an IOMMU, from the frontend's side: what it is sent, what it asks for, and what it must acknowledge. */
import path from 'node:path';
import t from 'tap';
import * as vhost from '../../../src/abi/vhost.ts';
import * as abi from '../../../src/abi/vhost-user.ts';
import {
  featureSet,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import { ACCESS_READ, ACCESS_WRITE } from '../../../src/memory/guest-memory.ts';
import { GiB, MiB } from '../../../src/memory/ram-layout.ts';
import { VhostUserRig } from '../../../src/testing/vhost-user-rig.ts';
import type { IotlbMessage } from '../../../src/vhost/iotlb-message.ts';
import { VhostUserDevice } from '../../../src/vhost-user/frontend/vhost-user-device.ts';
import { writeIotlb } from '../../../src/vhost-user/payload.ts';
import { otherKind } from '../../../src/virtio/frontend-device.ts';
import { FakeBackend } from '../../support/fakes/backend.ts';
import { until } from '../../support/fakes/machine.ts';
import { TemporaryFolder } from '../../support/rigs/blk-driver.ts';

const FEATURES = featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_ACCESS_PLATFORM);
const PAGE = 4096;
const RW = ACCESS_READ | ACCESS_WRITE;

async function withDevice(
  prepare: (backend: FakeBackend) => void,
  use: (bench: { readonly backend: FakeBackend; readonly rig: VhostUserRig }) => Promise<void>,
): Promise<void> {
  using folder = new TemporaryFolder();
  const socket = path.join(folder.path, 's');
  using backend = new FakeBackend(socket);
  backend.features |= FEATURES;
  backend.protocolFeatures |= featureSet(abi.VHOST_USER_PROTOCOL_F_BACKEND_REQ);
  prepare(backend);
  const shape = { deviceId: 42, queues: 1, queueSize: 64, configSize: 0 };
  // Longer than any test: what ends one is the limit for answers that guests wait for.
  const address = { socket, server: false, timeoutMs: 3_600_000 };
  const device = await VhostUserDevice.open('test0', address, (session) =>
    otherKind(session, shape),
  );
  await using rig = new VhostUserRig(device, true);
  await use({ backend, rig });
}

const update = (iova: number, size: number, uaddr: number, perm: number): IotlbMessage => ({
  type: vhost.VHOST_IOTLB_UPDATE,
  iova,
  size,
  uaddr,
  perm,
});
const invalidate = (iova: number, size: number): IotlbMessage => ({
  ...update(iova, size, 0, 0),
  type: vhost.VHOST_IOTLB_INVALIDATE,
});

/** What the backend says of an address. */
function say(backend: FakeBackend, type: number, iova: number, perm: number): Promise<bigint> {
  const view = writeIotlb({ type, iova, size: 0, uaddr: 0, perm });
  const { requests } = backend;
  if (requests === undefined) throw new Error('there is no channel');
  const { VHOST_USER_BACKEND_IOTLB_MSG: request, VHOST_USER_NEED_REPLY_MASK: flags } = abi;
  return requests.call(request, flags, view).then(({ payload }) => payload.getBigUint64(0, true));
}

t.test('from the rings to their end', (t) =>
  withDevice(
    () => {},
    async ({ backend, rig }) => {
      const { ram, space } = rig;
      if (space === undefined) throw new Error('it is not behind an IOMMU');
      t.equal(rig.device.iommuProblem(), undefined);
      space.map(MiB, 3 * MiB, 8 * MiB, RW);
      await rig.start(FEATURES, 16);
      t.equal(backend.acked & FEATURES, FEATURES);
      t.equal(backend.regions[0]?.userAddress, ram.memory.address, 'RAM, not the addresses');
      const [ring] = rig.queues.map(({ config }) => config);
      t.match(backend.addresses, [
        {
          descriptor: ring?.descriptorArea,
          available: ring?.driverArea,
          used: ring?.deviceArea,
        },
      ]);
      const rings = update(MiB, 8 * MiB, ram.memory.address + 3 * MiB, RW);
      t.same(backend.iotlb.splice(0), [rings, rings, rings]);

      space.map(GiB, PAGE, PAGE, ACCESS_READ);
      t.ok(space.settled() !== undefined, 'the guest waits for the backend');
      await space.settled();
      const one = update(GiB, PAGE, ram.memory.address + PAGE, ACCESS_READ);
      t.same(backend.iotlb.splice(0), [one]);
      t.equal(await say(backend, vhost.VHOST_IOTLB_MISS, GiB + 5, ACCESS_READ), 0n);
      t.same(backend.iotlb.splice(0), [one], 'a miss');
      space.unmap(GiB, PAGE);
      await space.settled();
      t.same(backend.iotlb.splice(0), [invalidate(GiB, PAGE)]);

      t.equal(await say(backend, vhost.VHOST_IOTLB_MISS, GiB + 5, ACCESS_READ), 1n);
      t.equal(await say(backend, vhost.VHOST_IOTLB_MISS, GiB + 5, ACCESS_WRITE), 1n);
      t.equal(await say(backend, 77, GiB + 5, ACCESS_WRITE), 1n, 'no such message');
      t.same(rig.denied, [{ address: GiB, write: false }], 'once');
      t.match(rig.broken, [/does not permit/]);
      t.same(backend.iotlb.splice(0), []);
      await rig.stop();
      t.same(backend.iotlb.splice(0), [invalidate(0, space.share.size)]);
      space.map(GiB, PAGE, PAGE, ACCESS_READ);
      t.equal(space.settled(), undefined, 'it is not served');
    },
  ),
);

t.test(
  'a page for writing only may be read too, which DPDK wants; none for reading only is written',
  (t) =>
    withDevice(
      () => {},
      async ({ backend, rig }) => {
        const { ram, space } = rig;
        space?.map(MiB, MiB, 8 * MiB, RW);
        await rig.start(FEATURES, 16);
        backend.iotlb.length = 0;
        space?.map(GiB, PAGE, PAGE, ACCESS_WRITE);
        space?.map(GiB + PAGE, PAGE, PAGE, ACCESS_READ);
        await space?.settled();
        const [written, read] = [update(GiB, PAGE, ram.memory.address + PAGE, RW), ACCESS_READ];
        t.same(backend.iotlb.splice(0), [
          written,
          update(GiB + PAGE, PAGE, ram.memory.address + PAGE, read),
        ]);
        t.equal(await say(backend, vhost.VHOST_IOTLB_MISS, GiB, RW), 0n);
        t.same(backend.iotlb.splice(0), [written]);
        t.equal(await say(backend, vhost.VHOST_IOTLB_MISS, GiB + PAGE, RW), 1n);
        t.same(rig.denied, [{ address: GiB + PAGE, write: true }]);
      },
    ),
);

t.test('an access that failed is a fault', (t) =>
  withDevice(
    () => {},
    async ({ backend, rig }) => {
      rig.space?.map(MiB, MiB, 8 * MiB, RW);
      await rig.start(FEATURES, 16);
      t.equal(await say(backend, vhost.VHOST_IOTLB_ACCESS_FAIL, MiB + 5, ACCESS_WRITE), 1n);
      t.same(rig.denied, [{ address: MiB, write: true }]);
    },
  ),
);

t.test('a backend that dies keeps no guest waiting, and is set up again', (t) =>
  withDevice(
    () => {},
    async ({ backend, rig }) => {
      const { space } = rig;
      space?.map(MiB, MiB, 8 * MiB, RW);
      await rig.start(FEATURES, 16);
      backend.acts.set(abi.VHOST_USER_IOTLB_MSG, () => {});
      space?.map(GiB, PAGE, PAGE, RW);
      const waiting = space?.settled();
      t.ok(waiting !== undefined);
      backend.die();
      await waiting;
      t.pass('the guest continues');
      space?.unmap(GiB, PAGE);
      t.equal(space?.settled(), undefined);
      backend.acts.clear();
      backend.iotlb.length = 0;
      backend.listen();
      await until(() => backend.iotlb.length === 3);
      t.same(
        backend.iotlb.map(({ iova }) => iova),
        [MiB, MiB, MiB],
      );
    },
  ),
);

t.test('a backend that does not acknowledge an unmapping is disconnected', (t) =>
  withDevice(
    () => {},
    async ({ backend, rig }) => {
      const { space } = rig;
      space?.map(MiB, MiB, 8 * MiB, RW);
      await rig.start(FEATURES, 16);
      space?.map(GiB, PAGE, PAGE, RW);
      await space?.settled();
      backend.acts.set(abi.VHOST_USER_IOTLB_MSG, () => {});
      space?.unmap(GiB, PAGE);
      await space?.settled();
      t.match(rig.broken, [/left IOTLB_MSG unanswered for 1000 ms/]);
      await until(() => backend.channel?.open === false);
      space?.unmap(MiB, 8 * MiB);
      t.equal(space?.settled(), undefined, 'nor does it hold up anything else');
    },
  ),
);

t.test('a backend gets no more mappings than it can take at once, and asks for the others', (t) =>
  withDevice(
    () => {},
    async ({ backend, rig }) => {
      const { space, ram } = rig;
      space?.map(MiB, MiB, 8 * MiB, RW);
      await rig.start(FEATURES, 16);
      backend.iotlb.length = 0;
      const unanswered: (() => void)[] = [];
      backend.acts.set(abi.VHOST_USER_IOTLB_MSG, (message, channel) => {
        unanswered.push(() => backend.answer(message, channel));
      });
      for (let page = 0; page < 100; page++) space?.map(GiB + page * PAGE, PAGE, PAGE, RW);
      const settled = space?.settled();
      await until(() => unanswered.length >= 64);
      backend.acts.clear();
      for (const answer of unanswered) answer();
      await settled;
      t.equal(backend.iotlb.splice(0).length, 64);
      t.equal(await say(backend, vhost.VHOST_IOTLB_MISS, GiB + 99 * PAGE, ACCESS_READ), 0n);
      t.same(backend.iotlb, [update(GiB + 99 * PAGE, PAGE, ram.memory.address + PAGE, RW)]);
    },
  ),
);

t.test('backends that cannot follow an IOMMU', async (t) => {
  for (const prepare of [
    (backend: FakeBackend) => {
      backend.features &= ~featureSet(VIRTIO_F_ACCESS_PLATFORM);
    },
    (backend: FakeBackend) => {
      backend.protocolFeatures &= ~featureSet(abi.VHOST_USER_PROTOCOL_F_BACKEND_REQ);
    },
    (backend: FakeBackend) => {
      backend.protocolFeatures &= ~featureSet(abi.VHOST_USER_PROTOCOL_F_REPLY_ACK);
    },
  ]) {
    await withDevice(prepare, async ({ rig }) => {
      t.match(rig.device.iommuProblem(), /no device IOTLB/);
    });
  }
});
