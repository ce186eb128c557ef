/** Backends that break the rules: one line, a device that asks for a reset, and nothing left open. */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import * as abi from '../../../src/abi/vhost-user.ts';
import { featureSet, VIRTIO_F_VERSION_1 } from '../../../src/abi/virtio-ring.ts';
import { messageOf } from '../../../src/host/errors.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import { VhostUserRig } from '../../../src/testing/vhost-user-rig.ts';
import { VhostUserDevice } from '../../../src/vhost-user/frontend/vhost-user-device.ts';
import { otherKind } from '../../../src/virtio/frontend-device.ts';
import { type Act, FakeBackend } from '../../support/fakes/backend.ts';
import { TemporaryFolder } from '../../support/rigs/blk-driver.ts';

/** Long enough for a backend on a busy host. */
const TIMEOUT_MS = 6000;

const VERSION_1 = featureSet(VIRTIO_F_VERSION_1);
const SHAPE = { deviceId: 42, queues: 2, queueSize: 64, configSize: 4 };
const PROTOCOL = featureSet(
  abi.VHOST_USER_PROTOCOL_F_MQ,
  abi.VHOST_USER_PROTOCOL_F_REPLY_ACK,
  abi.VHOST_USER_PROTOCOL_F_CONFIG,
  abi.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
  abi.VHOST_USER_PROTOCOL_F_BACKEND_REQ,
  abi.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  abi.VHOST_USER_PROTOCOL_F_STATUS,
  abi.VHOST_USER_PROTOCOL_F_RESET_DEVICE,
);

/** Requests of a device's way from the first word to its end, all of which are answered. */
const ANSWERED = [
  abi.VHOST_USER_GET_FEATURES,
  abi.VHOST_USER_GET_PROTOCOL_FEATURES,
  abi.VHOST_USER_SET_OWNER,
  abi.VHOST_USER_GET_QUEUE_NUM,
  abi.VHOST_USER_SET_BACKEND_REQ_FD,
  abi.VHOST_USER_GET_CONFIG,
  abi.VHOST_USER_SET_FEATURES,
  abi.VHOST_USER_SET_STATUS,
  abi.VHOST_USER_GET_STATUS,
  abi.VHOST_USER_GET_MAX_MEM_SLOTS,
  abi.VHOST_USER_ADD_MEM_REG,
  abi.VHOST_USER_GET_INFLIGHT_FD,
  abi.VHOST_USER_SET_INFLIGHT_FD,
  abi.VHOST_USER_SET_VRING_NUM,
  abi.VHOST_USER_SET_VRING_ADDR,
  abi.VHOST_USER_SET_VRING_KICK,
  abi.VHOST_USER_SET_VRING_ENABLE,
  abi.VHOST_USER_GET_VRING_BASE,
] as const;

const openFds = (): number => readdirSync('/proc/self/fd').length;

/** A device's whole life at such a backend. @returns the lines that were reported */
async function live(prepare: (backend: FakeBackend) => void): Promise<string[]> {
  using folder = new TemporaryFolder();
  const socket = path.join(folder.path, 's');
  using backend = new FakeBackend(socket);
  backend.protocolFeatures = PROTOCOL;
  backend.config = new Uint8Array(4);
  prepare(backend);
  const address = { socket, server: false, timeoutMs: TIMEOUT_MS };
  let device: VhostUserDevice;
  try {
    device = await VhostUserDevice.open('test0', address, (session) => otherKind(session, SHAPE));
  } catch (error) {
    return [messageOf(error)];
  }
  await using rig = new VhostUserRig(device);
  const lines: string[] = [];
  try {
    await rig.start(VERSION_1, 16);
  } catch (error) {
    lines.push(messageOf(error));
  }
  await rig.stop();
  // The datapath reports the connection's end in a turn of its own.
  await new Promise((resolve) => setImmediate(resolve));
  return [...lines, ...rig.broken, ...rig.logs];
}

t.test('nothing is reported of a good one', async (t) => {
  t.same(await live(() => {}), []);
});

/** Answers with other bytes, as another request, with descriptors, twice; hangs up; does not answer. */
const act = (bytes: Uint8Array, request: number, fds: number, times: number): Act => {
  return (_message, channel) => {
    const events = Array.from({ length: fds }, () => new Eventfd());
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let i = 0; i < times; i++) {
      channel.send(
        request,
        abi.VHOST_USER_REPLY_MASK,
        view,
        events.map(({ fd }) => fd),
      );
    }
    for (const event of events) event.close();
    if (times === 0) channel.close();
  };
};

t.test('whatever it answers, to whichever request', async (t) => {
  // Threads and polls that are made once.
  await live(() => {});
  const before = openFds();
  const property = fc.asyncProperty(
    fc.constantFrom(...ANSWERED),
    fc.uint8Array({ maxLength: 300 }),
    fc.boolean(),
    fc.nat(3),
    fc.nat(2),
    async (request, bytes, another, fds, times) => {
      const as = another ? abi.VHOST_USER_SET_OWNER : request;
      const lines = await live((backend) => backend.acts.set(request, act(bytes, as, fds, times)));
      for (const line of lines) {
        if (line.includes('\n') || line.includes('nodevmm, please report')) return false;
      }
      return true;
    },
  );
  await fc.assert(property, { numRuns: 150 });
  await new Promise((resolve) => setTimeout(resolve, 50));
  t.equal(openFds(), before, 'nothing is left open');
});

t.test('each way to be wrong has its line', async (t) => {
  const U64 = new Uint8Array(8);
  const cases: readonly (readonly [number, Act, RegExp])[] = [
    [
      abi.VHOST_USER_GET_FEATURES,
      act(new Uint8Array(7), 1, 0, 1),
      /its reply to GET_FEATURES has 7 bytes/,
    ],
    [
      abi.VHOST_USER_GET_QUEUE_NUM,
      act(U64, 17, 1, 1),
      /8 bytes and 1 file descriptors, not 8 bytes/,
    ],
    [abi.VHOST_USER_GET_QUEUE_NUM, act(U64, 3, 0, 1), /an unsolicited reply to SET_OWNER/],
    [abi.VHOST_USER_GET_QUEUE_NUM, () => {}, /left GET_QUEUE_NUM unanswered for 6000 ms/],
    [abi.VHOST_USER_SET_OWNER, act(U64.slice().fill(1), 3, 0, 1), /it refused SET_OWNER/],
    [
      abi.VHOST_USER_GET_CONFIG,
      act(new Uint8Array(0), 24, 0, 1),
      /does not have 4 bytes of configuration/,
    ],
    [abi.VHOST_USER_GET_MAX_MEM_SLOTS, act(U64, 36, 0, 1), /it has 0 memory slots/],
    [
      abi.VHOST_USER_GET_INFLIGHT_FD,
      act(new Uint8Array(24), 31, 0, 1),
      /lacks an area or its file descriptor/,
    ],
    [abi.VHOST_USER_GET_STATUS, act(U64, 40, 0, 1), /it rejected features that it offered/],
    [abi.VHOST_USER_GET_VRING_BASE, act(U64.slice().fill(9), 11, 0, 1), /for ring \d+, not 0/],
  ];
  for (const [request, wrong, line] of cases) {
    const lines = await live((backend) => backend.acts.set(request, wrong));
    t.match(lines[0], line);
    t.equal(lines.length, 1);
  }
});

t.test('legacy backends are turned away', async (t) => {
  const lines = await live((backend) => {
    backend.features = featureSet(abi.VHOST_USER_F_PROTOCOL_FEATURES);
  });
  t.match(lines, [/^test0, .*: .*no VIRTIO_F_VERSION_1/]);
});
