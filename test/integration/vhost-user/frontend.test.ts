/** What the frontend sends to a backend, clause by clause, and how it handles the answers. */
import path from 'node:path';
import t, { type Test } from 'tap';
import * as abi from '../../../src/abi/vhost-user.ts';
import {
  featureSet,
  hasFeature,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import { isReadable } from '../../../src/host/fd.ts';
import { VhostUserRig } from '../../../src/testing/vhost-user-rig.ts';
import { VhostUserDevice } from '../../../src/vhost-user/frontend/vhost-user-device.ts';
import { otherKind } from '../../../src/virtio/frontend-device.ts';
import { FakeBackend } from '../../support/fakes/backend.ts';
import { TemporaryFolder } from '../../support/rigs/blk-driver.ts';

const VERSION_1 = featureSet(VIRTIO_F_VERSION_1);
const DEVICE_ID = 42;

interface Bench {
  readonly backend: FakeBackend;
  readonly rig: VhostUserRig;
}

/** A device of two queues at a fake backend. */
async function withDevice(
  prepare: (backend: FakeBackend) => void,
  use: (bench: Bench) => Promise<void>,
  { configSize = 0, timeoutMs = 5000 } = {},
): Promise<void> {
  using folder = new TemporaryFolder();
  const socket = path.join(folder.path, 's');
  using backend = new FakeBackend(socket);
  prepare(backend);
  const shape = { deviceId: DEVICE_ID, queues: 2, queueSize: 64, configSize };
  const address = { socket, server: false, timeoutMs };
  const device = await VhostUserDevice.open('test0', address, (session) =>
    otherKind(session, shape),
  );
  await using rig = new VhostUserRig(device);
  await use({ backend, rig });
}

const RING = ['SET_VRING_NUM', 'SET_VRING_BASE', 'SET_VRING_ADDR', 'SET_VRING_ERR'];
const FILES = ['SET_VRING_CALL', 'SET_VRING_KICK'];

t.test('a device is asked about, set up, and taken back', (t) =>
  withDevice(
    () => {},
    async ({ backend, rig }) => {
      t.same(backend.take(), [
        'GET_FEATURES',
        'GET_PROTOCOL_FEATURES',
        'SET_PROTOCOL_FEATURES',
        'SET_OWNER',
        'GET_QUEUE_NUM',
      ]);
      await rig.start(VERSION_1, 16);
      t.same(backend.take(), [
        'SET_FEATURES',
        'SET_MEM_TABLE',
        ...[...RING, ...FILES, ...RING, ...FILES],
        ...['SET_VRING_ENABLE', 'SET_VRING_ENABLE'],
      ]);
      t.equal(backend.acked, VERSION_1 | featureSet(abi.VHOST_USER_F_PROTOCOL_FEATURES));
      const { memory } = rig.ram;
      t.same(backend.regions, [
        { gpa: 0, size: memory.size, userAddress: memory.address, mmapOffset: 0 },
      ]);
      t.same(
        backend.addresses,
        rig.queues.map(({ config }) => ({
          index: config.index,
          flags: 0,
          descriptor: memory.address + config.descriptorArea,
          available: memory.address + config.driverArea,
          used: memory.address + config.deviceArea,
        })),
        'ring addresses are user addresses of the memory table',
      );
      for (const { config } of rig.queues) {
        t.ok(isReadable(config.kickFd), 'a ring starts when it is kicked');
      }
      backend.bases.set(0, 7).set(1, 9);
      rig.queues[0]?.deviceArea.setUint16(2, 5, true);
      const states = await rig.stop();
      t.same(backend.take(), ['GET_VRING_BASE', 'GET_VRING_BASE']);
      t.same(
        states,
        new Map([
          [0, { nextAvail: 7, nextUsed: 5 }],
          [1, { nextAvail: 9, nextUsed: 0 }],
        ]),
        'a split ring has its used index in memory',
      );
      await rig.resume(VERSION_1, states);
      t.notOk(backend.take().includes('SET_MEM_TABLE'), 'memory is shared once a connection');
      t.equal(backend.bases.get(0), 7);
    },
  ),
);

t.test("a packed ring's position has both indices and wrap counters", (t) =>
  withDevice(
    (backend) => {
      backend.features |= featureSet(VIRTIO_F_RING_PACKED);
    },
    async ({ backend, rig }) => {
      await rig.start(VERSION_1 | featureSet(VIRTIO_F_RING_PACKED), 16);
      t.equal(backend.bases.get(0), 0x8000_8000);
      backend.bases.set(0, 0x0003_8005);
      t.same((await rig.stop()).get(0), { nextAvail: 0x8005, nextUsed: 3 });
    },
  ),
);

t.test('what a backend does not offer is not asked of it', async (t) => {
  await withDevice(
    (backend) => {
      backend.features = VERSION_1;
    },
    async ({ backend, rig }) => {
      await rig.start(VERSION_1, 16);
      t.same(backend.take(), [
        ...['GET_FEATURES', 'SET_OWNER', 'SET_FEATURES', 'SET_MEM_TABLE'],
        ...[...RING, ...FILES, ...RING, ...FILES],
        // Has an answer, as the others have not.
        'GET_FEATURES',
      ]);
      t.equal(backend.acked, VERSION_1);
      rig.device.reset();
      await rig.stop();
      t.same(backend.take(), ['GET_VRING_BASE', 'GET_VRING_BASE']);
    },
  );
});

t.test('memory slots, status, reset', (t) =>
  withDevice(
    (backend) => {
      backend.protocolFeatures |= featureSet(
        abi.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
        abi.VHOST_USER_PROTOCOL_F_STATUS,
        abi.VHOST_USER_PROTOCOL_F_RESET_DEVICE,
      );
    },
    async ({ backend, rig }) => {
      await rig.start(VERSION_1, 16);
      const calls = backend.take();
      t.ok(calls.includes('ADD_MEM_REG'));
      t.notOk(calls.includes('SET_MEM_TABLE'));
      t.equal(backend.regions.length, 1);
      t.equal(backend.status, 0xf);
      await rig.stop();
      rig.device.reset();
      await rig.until(() => backend.status === 0, 'reset');
      t.same(backend.take().slice(-2), ['RESET_DEVICE', 'SET_STATUS']);
    },
  ),
);

t.test('the configuration: read, written, changed by the backend', (t) =>
  withDevice(
    (backend) => {
      backend.protocolFeatures |= featureSet(abi.VHOST_USER_PROTOCOL_F_BACKEND_REQ);
      backend.config = Uint8Array.of(1, 2, 3, 4);
    },
    async ({ backend, rig }) => {
      t.same([...rig.device.config], [1, 2, 3, 4]);
      await rig.start(VERSION_1, 16);
      rig.device.config.set([0xaa, 0xbb], 1);
      rig.device.configWritten(1, 2);
      await rig.until(() => backend.written !== undefined, 'SET_CONFIG');
      t.match(backend.written, { offset: 1, liveMigration: false });
      t.same([...(backend.written?.bytes ?? [])], [0xaa, 0xbb]);
      backend.config = Uint8Array.of(1, 2, 3, 5);
      await backend.requests?.call(
        abi.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
        abi.VHOST_USER_NEED_REPLY_MASK,
      );
      await rig.until(() => rig.device.config[3] === 5, 'new configuration');
    },
    { configSize: 4 },
  ),
);

t.test('a driver that writes its configuration endlessly: one request is in flight', (t) =>
  withDevice(
    (backend) => {
      backend.config = Uint8Array.of(1, 2, 3, 4);
    },
    async ({ backend, rig }) => {
      await rig.start(VERSION_1, 16);
      backend.take();
      for (let i = 0; i < 1000; i++) {
        rig.device.config[1] = i & 0xff;
        rig.device.configWritten(1, 1);
      }
      await rig.until(() => backend.written?.bytes[0] === (999 & 0xff), 'the last one');
      t.same(backend.take(), ['SET_CONFIG', 'SET_CONFIG']);
    },
    { configSize: 4 },
  ),
);

t.test('a backend whose configuration changes endlessly gets one request at a time', (t) =>
  withDevice(
    (backend) => {
      backend.protocolFeatures |= featureSet(abi.VHOST_USER_PROTOCOL_F_BACKEND_REQ);
      backend.config = Uint8Array.of(1, 2, 3, 4);
    },
    async ({ backend, rig }) => {
      await rig.start(VERSION_1, 16);
      backend.take();
      backend.config = Uint8Array.of(1, 2, 3, 5);
      for (let i = 0; i < 1000; i++) {
        backend.requests?.send(abi.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
      }
      await backend.requests?.call(
        abi.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
        abi.VHOST_USER_NEED_REPLY_MASK,
      );
      await rig.until(() => rig.device.config[3] === 5, 'new configuration');
      const asked = backend.take().filter((request) => request === 'GET_CONFIG').length;
      t.ok(asked > 0 && asked <= 500, `${asked} questions`);
    },
    { configSize: 4 },
  ),
);

t.test('a record of what is in flight is made once, and handed to the next backend', (t) =>
  withDevice(
    (backend) => {
      backend.protocolFeatures |= featureSet(abi.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
    },
    async ({ backend, rig }) => {
      await rig.start(VERSION_1, 16);
      t.match(backend.take().join(' '), /GET_INFLIGHT_FD SET_INFLIGHT_FD SET_VRING_NUM/);
      const { inflight } = backend;
      for (let i = 0; i < 5; i++) rig.add(0, { writable: [8] });
      rig.queues[0]?.deviceArea.setUint16(2, 3, true);
      backend.die();
      backend.listen();
      await rig.until(() => rig.logs.includes('the backend reconnected'), 'backend');
      const calls = backend.take();
      t.notOk(calls.includes('GET_INFLIGHT_FD'));
      t.equal(backend.inflight, inflight);
      t.equal(backend.bases.get(0), 3, 'it continues at the used index');
      await rig.stop();
      rig.device.reset();
      await rig.resume(VERSION_1);
      t.ok(backend.take().includes('GET_INFLIGHT_FD'), 'a new one after a reset');
    },
  ),
);

t.test('one that comes back without what the driver uses', (t) =>
  withDevice(
    (backend) => {
      backend.features |= featureSet(3);
    },
    async ({ backend, rig }) => {
      t.ok(hasFeature(rig.device.features, 3));
      await rig.start(VERSION_1 | featureSet(3), 16);
      backend.features = featureSet(VIRTIO_F_VERSION_1, abi.VHOST_USER_F_PROTOCOL_FEATURES);
      backend.die();
      backend.listen();
      await rig.until(() => rig.broken.length > 0, 'complaint');
      t.match(rig.broken, [/came back without feature bits that the driver uses \(3\)/]);
    },
  ),
);

t.test('one that is away when the driver starts is served as it comes', (t) =>
  withDevice(
    () => {},
    async ({ backend, rig }) => {
      backend.die();
      await rig.until(() => rig.logs.length > 0, 'line');
      await rig.start(VERSION_1, 16);
      backend.take();
      backend.listen();
      await rig.until(() => rig.logs.includes('the backend reconnected'), 'backend');
      t.ok(backend.take().includes('SET_VRING_KICK'));
      t.same(rig.broken, []);
    },
  ),
);

t.test('a backend that hangs breaks its device, and a reset brings it back', (t) =>
  withDevice(
    () => {},
    async ({ backend, rig }) => {
      await rig.start(VERSION_1, 16);
      backend.acts.set(abi.VHOST_USER_GET_VRING_BASE, () => {});
      await rig.stop();
      await rig.until(() => rig.logs.length > 0, 'line');
      t.match(rig.logs, [/left GET_VRING_BASE unanswered for 2000 ms/]);
      backend.acts.clear();
      rig.device.reset();
      await rig.resume(VERSION_1);
      t.equal(backend.connections, 2);
      t.same(rig.broken, []);
    },
    { timeoutMs: 2000 },
  ),
);

async function server(t: Test): Promise<void> {
  using folder = new TemporaryFolder();
  const socket = path.join(folder.path, 's');
  const shape = { deviceId: DEVICE_ID, queues: 2, queueSize: 64, configSize: 0 };
  const kindOf = (session: Parameters<typeof otherKind>[0]) => otherKind(session, shape);
  await t.rejects(VhostUserDevice.open('test0', { socket, server: true, timeoutMs: 50 }, kindOf), {
    message: /no backend connected to .* within 50 ms/,
  });
  const opening = VhostUserDevice.open('test0', { socket, server: true, timeoutMs: 5000 }, kindOf);
  using backend = new FakeBackend(socket, false);
  backend.call();
  await using rig = new VhostUserRig(await opening);
  await rig.start(VERSION_1, 16);
  backend.channel?.close();
  await rig.until(() => rig.logs.length > 0, 'line');
  backend.call();
  await rig.until(() => rig.logs.includes('the backend reconnected'), 'backend');
}

t.test('a backend that connects, and connects again', server);

t.test('no backend', async (t) => {
  const address = { socket: '/nonexistent/s', server: false, timeoutMs: 50 };
  await t.rejects(
    VhostUserDevice.open('test0', address, () => Promise.reject(new Error('never'))),
    { code: 'E_VHOST_USER_SOCKET', message: /no backend listens at/ },
  );
});
