/** A network device of two queue pairs: its control queue is the frontend's, both pairs the backend's. */
import path from 'node:path';
import t, { type Test } from 'tap';
import * as vu from '../../../src/abi/vhost-user.ts';
import * as net from '../../../src/abi/virtio-net.ts';
import { featureSet, hasFeature, VIRTIO_F_VERSION_1 } from '../../../src/abi/virtio-ring.ts';
import { deviceShape } from '../../../src/machine/devices/virtio-plan.ts';
import { VhostUserRig } from '../../../src/testing/vhost-user-rig.ts';
import { ListeningBackend } from '../../../src/vhost-user/backend/backend.ts';
import { BackendDevice } from '../../../src/vhost-user/backend/backend-device.ts';
import { VhostUserDevice } from '../../../src/vhost-user/frontend/vhost-user-device.ts';
import * as payload from '../../../src/vhost-user/payload.ts';
import { netKind } from '../../../src/virtio/device/net/frontend-net.ts';
import type { HandlerContext, QueueHandler, VirtioDevice } from '../../../src/virtio/device.ts';
import { DescriptorChain } from '../../../src/virtio/queue/descriptor-chain.ts';
import { POP_CHAIN } from '../../../src/virtio/queue/virtqueue.ts';
import { FakeBackend } from '../../support/fakes/backend.ts';
import { TemporaryFolder } from '../../support/rigs/blk-driver.ts';
import { FrontendRig } from '../../support/rigs/frontend.ts';

const SECOND_TRANSMIT = 3;
const CONTROL = 4;
const PAIRS = featureSet(net.VIRTIO_NET_F_MQ, net.VIRTIO_NET_F_CTRL_VQ);
const TWO_PAIRS = Uint8Array.of(net.VIRTIO_NET_CTRL_MQ, net.VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 2, 0);

/** Takes what is sent, and remembers what it was started with. */
class Sink implements QueueHandler {
  readonly contexts: HandlerContext[];

  constructor(contexts: HandlerContext[]) {
    this.contexts = contexts;
  }

  start(context: HandlerContext): void {
    this.contexts.push(context);
  }

  kick(index: number): void {
    const context = this.contexts.at(-1);
    const served = context?.queues[index];
    if (context === undefined || served === undefined || index % 2 === 0) return;
    const { virtqueue } = served;
    const chain = new DescriptorChain(context.memory);
    while (virtqueue.pop(chain) === POP_CHAIN) virtqueue.push(chain.id, chain.slots, 0);
    served.publish();
  }

  ready(): void {}

  stop(): void {}
}

async function withServed(
  use: (socket: string, contexts: readonly HandlerContext[], logs: string[]) => Promise<void>,
): Promise<void> {
  using folder = new TemporaryFolder();
  const socket = path.join(folder.path, 's');
  const contexts: HandlerContext[] = [];
  const device: VirtioDevice = {
    name: 'net0',
    deviceId: net.VIRTIO_ID_NET,
    pciClass: 0x02_0000,
    features: PAIRS,
    featureDependencies: [[net.VIRTIO_NET_F_MQ, net.VIRTIO_NET_F_CTRL_VQ]],
    queues: ['rx1', 'tx1', 'rx2', 'tx2', 'control'].map((name) => ({ name, maxSize: 64 })),
    config: new Uint8Array(12),
    thread: { kind: 'main' },
    createHandler: () => new Sink(contexts),
    close: () => {},
  };
  const logs: string[] = [];
  const { features, queueSizes } = deviceShape(device, { ringReset: false });
  await using exported = new BackendDevice(device, features, queueSizes, (line) => logs.push(line));
  await using _backend = new ListeningBackend(socket, exported);
  await use(socket, contexts, logs);
}

const isServed = (t: Test, context: HandlerContext | undefined): void => {
  t.ok(context?.queues[SECOND_TRANSMIT], 'the second pair');
  t.notOk(context?.queues[CONTROL], 'the control queue is not known here');
  t.ok(hasFeature(context?.features ?? 0n, net.VIRTIO_NET_F_MQ), 'the device knows that it is one');
};

t.test('by our own frontend', (t) =>
  withServed(async (socket, contexts, logs) => {
    const address = { socket, server: false, timeoutMs: 5000 };
    const options = { pairs: 2, seed: 'test', queueSize: 64 };
    const device = await VhostUserDevice.open('net0', address, (s) => netKind(s, options));
    await using rig = new VhostUserRig(device);
    await rig.start(PAIRS | featureSet(VIRTIO_F_VERSION_1));
    t.notOk(contexts.at(-1)?.queues[SECOND_TRANSMIT], 'one pair after a reset (§5.1.6.5.5)');
    rig.add(CONTROL, { readable: [TWO_PAIRS], writable: [1] });
    const [answer] = await rig.completed(CONTROL);
    t.same([...(answer?.data ?? [])], [net.VIRTIO_NET_OK]);
    rig.add(SECOND_TRANSMIT, { readable: [new Uint8Array(64)] });
    await rig.completed(SECOND_TRANSMIT);
    isServed(t, contexts.at(-1));
    t.same([...rig.broken, ...logs], []);
  }),
);

for (const [name, refused] of [
  ['VIRTIO_NET_F_MQ alone, as QEMU', net.VIRTIO_NET_F_CTRL_VQ],
  ['none of both', [net.VIRTIO_NET_F_CTRL_VQ, net.VIRTIO_NET_F_MQ]],
] as const) {
  t.test(`by a frontend that negotiates ${name}`, (t) =>
    withServed(async (socket, contexts, logs) => {
      using front = new FrontendRig(socket);
      await front.negotiate(featureSet(...[refused].flat()));
      for (const index of [0, 1, 2]) await front.startRing(index);
      const { queue, kick } = await front.startRing(SECOND_TRANSMIT);
      queue.add({ readable: [new Uint8Array(64)] });
      kick.signal();
      while (queue.completed().length === 0) await front.ask(vu.VHOST_USER_SET_OWNER);
      isServed(t, contexts.at(-1));
      t.equal(payload.readU64(await front.channel.call(vu.VHOST_USER_GET_QUEUE_NUM)), 2n);
      t.same(logs, []);
    }),
  );
}

for (const [offers, pairs, hasMq] of [
  [true, 2, true],
  [false, 2, false],
  [true, 1, false],
] as const) {
  t.test(`a backend ${offers ? 'with' : 'without'} VIRTIO_NET_F_MQ, ${pairs} pairs`, async (t) => {
    using folder = new TemporaryFolder();
    const socket = path.join(folder.path, 's');
    using backend = new FakeBackend(socket);
    backend.queues = 2;
    backend.config = new Uint8Array(12);
    if (offers) backend.features |= PAIRS;
    const address = { socket, server: false, timeoutMs: 5000 };
    const options = { pairs, seed: 'test', queueSize: 64 };
    const device = await VhostUserDevice.open('net0', address, (s) => netKind(s, options));
    await using rig = new VhostUserRig(device);
    t.equal(hasFeature(device.features, net.VIRTIO_NET_F_MQ), pairs > 1, 'to the driver');
    await rig.start((device.features & PAIRS) | featureSet(VIRTIO_F_VERSION_1));
    t.equal(hasFeature(backend.acked, net.VIRTIO_NET_F_MQ), hasMq, 'to the backend');
    t.notOk(hasFeature(backend.acked, net.VIRTIO_NET_F_CTRL_VQ));
  });
}
