/** The frontend and the backend of nodevmm at the two ends of one socket: a disk, an entropy device. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import {
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  virtio_blk_config,
} from '../../../src/abi/virtio-blk.ts';
import * as ring from '../../../src/abi/virtio-ring.ts';
import { featureSet } from '../../../src/abi/virtio-ring.ts';
import { signalEventfd } from '../../../src/host/fd.ts';
import { deviceShape } from '../../../src/machine/devices/virtio-plan.ts';
import { ACCESS_READ, ACCESS_WRITE } from '../../../src/memory/guest-memory.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { VhostUserRig } from '../../../src/testing/vhost-user-rig.ts';
import { ConnectingBackend, ListeningBackend } from '../../../src/vhost-user/backend/backend.ts';
import { BackendDevice } from '../../../src/vhost-user/backend/backend-device.ts';
import type { FrontendSession } from '../../../src/vhost-user/frontend/frontend-session.ts';
import { VhostUserDevice } from '../../../src/vhost-user/frontend/vhost-user-device.ts';
import { createBlkDevice } from '../../../src/virtio/device/blk/blk.ts';
import { blkKind } from '../../../src/virtio/device/blk/frontend-blk.ts';
import { createRngDevice } from '../../../src/virtio/device/rng/rng.ts';
import type { VirtioDevice } from '../../../src/virtio/device.ts';
import { type DeviceKind, otherKind, type ShareMode } from '../../../src/virtio/frontend-device.ts';
import { ringAreas } from '../../../src/virtio/queue/create-virtqueue.ts';
import { blkHeader, TemporaryFolder } from '../../support/rigs/blk-driver.ts';

const SPLIT = featureSet(
  ring.VIRTIO_F_VERSION_1,
  ring.VIRTIO_F_INDIRECT_DESC,
  ring.VIRTIO_F_EVENT_IDX,
);
const PACKED = SPLIT | featureSet(ring.VIRTIO_F_RING_PACKED);
const BLOCK = 4096;
const ACCESS_PLATFORM = featureSet(ring.VIRTIO_F_ACCESS_PLATFORM);
const RW = ACCESS_READ | ACCESS_WRITE;
/** Of what the rig's driver has for rings and buffers; no multiple of 7. */
const PAGES = (15 * MiB) / BLOCK - 1;

/** A device served, and used, until the test is over. */
async function withBoth(
  device: VirtioDevice,
  kindOf: (session: FrontendSession) => Promise<DeviceKind>,
  use: (rig: VhostUserRig, logs: readonly string[]) => Promise<void>,
  share: ShareMode = 'all',
  translated = false,
): Promise<void> {
  using folder = new TemporaryFolder();
  const socket = path.join(folder.path, 's');
  const logs: string[] = [];
  const shape = deviceShape(device, { packed: true, ringReset: false });
  const log = (text: string): void => void logs.push(text);
  await using exported = new BackendDevice(device, shape.features, shape.queueSizes, log);
  await using _backend = new ListeningBackend(socket, exported);
  const address = { socket, server: false, timeoutMs: 5000, share };
  await using rig = new VhostUserRig(
    await VhostUserDevice.open('test0', address, kindOf),
    translated,
  );
  await use(rig, logs);
}

const request = (type: number, block: number, data: Uint8Array | number) => {
  const header = blkHeader(type, (block * BLOCK) / 512);
  if (typeof data === 'number') return { readable: [header], writable: [data, 1] };
  return { readable: [header, data], writable: [1] };
};

async function disk(t: Test, features: bigint, share?: ShareMode): Promise<void> {
  using folder = new TemporaryFolder();
  const file = folder.file('disk', MiB);
  const served = createBlkDevice({ name: 'blk0', path: file, queues: 2 });
  const kind = (session: FrontendSession) => blkKind('test0', session, undefined, 64);
  await withBoth(
    served,
    kind,
    async (rig, logs) => {
      t.equal(rig.device.queues.length, 2);
      const { buffer } = rig.device.config;
      t.equal(new DataView(buffer).getUint32(virtio_blk_config.capacity.offset, true), MiB / 512);
      await rig.start(features);
      let states: Awaited<ReturnType<VhostUserRig['stop']>> | undefined;
      for (let round = 0; round < 3; round++) {
        if (states !== undefined) await rig.resume(features, states);
        for (let block = 0; block < 32; block++) {
          const queue = block % 2;
          rig.add(queue, request(VIRTIO_BLK_T_OUT, block, Buffer.alloc(BLOCK, 32 * round + block)));
          t.equal((await rig.completed(queue))[0]?.writable[0], 0);
        }
        states = await rig.stop();
      }
      await rig.resume(features, states);
      rig.add(0, request(VIRTIO_BLK_T_IN, 7, BLOCK));
      t.equal((await rig.completed(0))[0]?.writable[0], 64 + 7);
      t.same([rig.broken, rig.logs, logs], [[], [], []]);
    },
    share,
  );
  t.equal(readFileSync(file)[31 * BLOCK], 64 + 31);
}

t.test('a disk on split rings, stopped and continued', (t) => disk(t, SPLIT));
t.test('a disk on packed rings, stopped and continued', (t) => disk(t, PACKED));

t.test('a disk whose backend gets copies of split rings', (t) => disk(t, SPLIT, 'shadow'));
t.test('a disk whose backend gets copies of packed rings', (t) => disk(t, PACKED, 'shadow'));
/** Maps what the driver uses, page by page, at addresses whose order is not that of RAM. */
function mapPages({ space }: VhostUserRig): void {
  for (let page = 0; page < PAGES; page++) {
    const gpa = MiB + ((page * 7) % PAGES) * BLOCK;
    if (space?.map(MiB + page * BLOCK, gpa, BLOCK, RW) !== true) throw new Error('no room');
  }
}

for (const [format, features] of [
  ['split', SPLIT],
  ['packed', PACKED],
] as const) {
  t.test(`behind an IOMMU, page by page, with ${format} rings`, async (t) => {
    using folder = new TemporaryFolder();
    const file = folder.file('disk', MiB);
    const served = createBlkDevice({ name: 'blk0', path: file, queues: 2 });
    const kind = (session: FrontendSession) => blkKind('test0', session, undefined, 64);
    const use = async (rig: VhostUserRig, logs: readonly string[]): Promise<void> => {
      const { space } = rig;
      t.equal(rig.device.iommuProblem(), undefined);
      mapPages(rig);
      await rig.start(features | ACCESS_PLATFORM);
      let states: Awaited<ReturnType<VhostUserRig['stop']>> | undefined;
      for (let round = 0; round < 2; round++) {
        if (states !== undefined) await rig.resume(features | ACCESS_PLATFORM, states);
        for (let block = 0; block < 32; block++) {
          const queue = block % 2;
          const data = Buffer.alloc(BLOCK, 32 * round + block);
          rig.add(queue, request(VIRTIO_BLK_T_OUT, block, data));
          t.equal((await rig.completed(queue))[0]?.writable[0], 0);
        }
        rig.add(0, request(VIRTIO_BLK_T_IN, 7, BLOCK));
        const [read] = await rig.completed(0);
        t.same(
          Buffer.from(read?.data ?? []).subarray(0, BLOCK),
          Buffer.alloc(BLOCK, 32 * round + 7),
        );
        states = await rig.stop();
      }
      t.same([rig.broken, rig.logs, logs], [[], [], []]);

      await rig.resume(features | ACCESS_PLATFORM, states);
      // A request is added, whose data and header are taken away.
      const queue = rig.queues[0];
      queue?.add(request(VIRTIO_BLK_T_IN, 7, BLOCK));
      const kept = rig.queues.flatMap(({ config }) => ringAreas(config, features));
      for (const { address, length } of [...(space?.table.all ?? [])]) {
        const isRing = kept.some(
          (area) => address < area.address + area.length && address + length > area.address,
        );
        if (isRing) continue;
        space?.unmap(address, length);
        // As the guest does, for each request.
        await space?.settled();
      }
      rig.kick(0);
      await rig.until(() => rig.broken.length > 0, 'complaint');
      t.match(rig.broken[0], /an address that the IOMMU does not permit/);
      t.ok(rig.denied.length > 0);
      await rig.until(() => logs.length > 0, 'a line');
      t.match(logs[0], /stopped: .*the IOMMU does not map/);
    };
    await withBoth(served, kind, use, 'all', true);
    t.equal(readFileSync(file)[31 * BLOCK], 32 + 31);
  });
}

t.test("a driver's fault is reported from end to end", async (t) => {
  const shape = { deviceId: 4, queues: 1, queueSize: 64, configSize: 0 };
  const kind = (session: FrontendSession) => otherKind(session, shape);
  await withBoth(createRngDevice({ name: 'rng0' }), kind, async (rig) => {
    await rig.start(SPLIT);
    rig.add(0, { writable: [64] });
    t.equal((await rig.completed(0))[0]?.written, 64);
    // More buffers than the ring has room for (virtio 1.3 §2.7.13).
    rig.queues[0]?.driverArea.setUint16(2, 0x4000, true);
    signalEventfd(rig.queues[0]?.config.kickFd ?? -1);
    await rig.until(() => rig.broken.length > 0, 'complaint');
    t.match(rig.broken, [/the backend found an invalid ring or buffer/]);
  });
});

t.test('a backend that calls, and calls again', async (t) => {
  using folder = new TemporaryFolder();
  const socket = path.join(folder.path, 's');
  const logs: string[] = [];
  const device = createRngDevice({ name: 'rng0' });
  const shape = deviceShape(device, { packed: true, ringReset: false });
  const log = (text: string): void => void logs.push(text);
  await using exported = new BackendDevice(device, shape.features, shape.queueSizes, log);
  await using _backend = new ConnectingBackend(socket, exported);
  const address = { socket, server: true, timeoutMs: 20_000 };
  const kind = (session: FrontendSession) =>
    otherKind(session, { deviceId: 4, queues: 1, queueSize: 64, configSize: 0 });
  for (let i = 0; i < 2; i++) {
    await using rig = new VhostUserRig(await VhostUserDevice.open('test0', address, kind));
    await rig.start(PACKED);
    rig.add(0, { writable: [64] });
    t.equal((await rig.completed(0))[0]?.written, 64);
  }
  const seen = logs.filter((line) => !line.includes('waiting'));
  t.same(seen, [`rng0: connected to ${socket}`, `rng0: connected to ${socket}`]);
  t.equal(logs[0], `rng0: waiting for a frontend to listen at ${socket} (ENOENT)`);
});
