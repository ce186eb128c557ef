/** A network device in a queue worker behind vhost-user, in each way of waiting for work. */
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import t from 'tap';
import { featureSet, VIRTIO_F_RING_PACKED } from '../../../src/abi/virtio-ring.ts';
import { ringFeatures } from '../../../src/machine/devices/virtio-plan.ts';
import { ListeningBackend } from '../../../src/vhost-user/backend/backend.ts';
import { BackendDevice } from '../../../src/vhost-user/backend/backend-device.ts';
import { createNetMemoryDevice } from '../../../src/virtio/device/net/net-memory.ts';
import type { MemoryNetwork } from '../../../src/virtio/device/net/net-memory-handler.ts';
import { netType } from '../../../src/virtio/device/net/net-type.ts';
import type { PollMode } from '../../../src/virtio/device-type.ts';
import { checkBackendOptions } from '../../support/rigs/backend-options.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { FrontendRig, type RigRing } from '../../support/rigs/frontend.ts';

const folder = testFolder(t);
const path = join(folder, 'socket');
const HEADER = 12;

async function withNetwork(
  network: MemoryNetwork,
  poll: PollMode,
  packed: boolean,
  work: (receive: RigRing, transmit: RigRing) => Promise<void>,
  frame = 60,
): Promise<void> {
  const log: string[] = [];
  const device = createNetMemoryDevice({ name: 'net0', network, frame });
  const features = device.features | ringFeatures({ packed: true, ringReset: false });
  const sizes = device.queues.map(({ maxSize }) => maxSize);
  await using exported = new BackendDevice(device, features, sizes, (l) => log.push(l), poll);
  await using _backend = new ListeningBackend(path, exported);
  using front = new FrontendRig(path);
  await front.negotiate(packed ? 0n : featureSet(VIRTIO_F_RING_PACKED));
  const receive = await front.startRing(0, 64);
  await work(receive, await front.startRing(1, 64));
  t.same(log, []);
}

function post({ queue, kick }: RigRing, request: Parameters<RigRing['queue']['add']>[0]): void {
  queue.add(request);
  if (queue.kick()) kick.signal();
}

async function next({ queue }: RigRing): Promise<Uint8Array> {
  for (;;) {
    const [done] = queue.completed();
    if (done !== undefined) return done.data;
    await turn();
  }
}

async function take({ queue }: RigRing, wanted: number): Promise<Uint8Array[]> {
  const taken: Uint8Array[] = [];
  while (taken.length < wanted) {
    taken.push(...queue.completed().map(({ data }) => data));
    await turn();
  }
  return taken;
}

for (const poll of ['off', 'adaptive', 'always'] as const) {
  for (const packed of [false, true]) {
    t.test(`${poll}, ${packed ? 'packed' : 'split'}: every packet comes back`, (t) =>
      withNetwork('echo', poll, packed, async (receive, transmit) => {
        for (let i = 0; i < 60; i++) {
          post(receive, { writable: i % 2 === 0 ? [200] : [12, 188] });
          const packet = new Uint8Array(HEADER + 100).fill(i, HEADER);
          const split = [packet.subarray(0, 30), packet.subarray(30)];
          post(transmit, { readable: i % 3 === 0 ? split : [packet] });
          await next(transmit);
          const back = await next(receive);
          packet[10] = 1;
          t.same([...back], [...packet]);
          // Now and then the worker has gone to sleep in between.
          if (i % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 2));
        }
      }),
    );
  }
}

t.test('of many packets at once each comes back, as far as there is room', (t) =>
  withNetwork('echo', 'adaptive', false, async (receive, transmit) => {
    const packets = Array.from({ length: 64 }, (_, i) =>
      new Uint8Array(HEADER + 60 + i).fill(i, HEADER),
    );
    for (let i = 0; i < 50; i++) receive.queue.add({ writable: [i === 40 ? 40 : 200] });
    for (const packet of packets) transmit.queue.add({ readable: [packet] });
    transmit.kick.signal();
    t.equal((await take(transmit, 64)).length, 64);
    for (const [i, data] of (await take(receive, 50)).entries()) {
      const packet = packets[i] as Uint8Array;
      packet[10] = 1;
      t.same([...data], i === 40 ? [] : [...packet]);
    }
  }),
);

t.test('a source fills what it is given, a buffer that is too small stays empty', (t) =>
  withNetwork(
    'source',
    'adaptive',
    false,
    async (receive) => {
      for (const room of [73, 74, 500]) {
        post(receive, { writable: [room] });
        const data = await next(receive);
        t.equal(data.length, room < 73 + HEADER ? 0 : 73 + HEADER);
      }
      post(receive, { writable: [12, 85] });
      const data = await next(receive);
      t.same([...data.subarray(10, 20)], [1, 0, 255, 255, 255, 255, 255, 255, 2, 0]);
    },
    73,
  ),
);

t.test('a sink takes all, and returns nothing', (t) =>
  withNetwork('sink', 'adaptive', true, async (receive, transmit) => {
    post(receive, { writable: [200] });
    for (let i = 0; i < 30; i++) {
      post(transmit, { readable: [new Uint8Array(100)] });
      t.equal((await next(transmit)).length, 0);
    }
    t.same(receive.queue.completed(), []);
  }),
);

t.test('frames that cannot be are refused', async (t) => {
  for (const frame of [59, 9019, 60.5]) {
    t.throws(() => checkBackendOptions(netType, 'memory', { backend: 'source', frame }), {
      code: 'E_NET_FRAME',
    });
  }
});
