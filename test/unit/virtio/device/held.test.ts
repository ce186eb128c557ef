/** Every device's data half bears a queue that is held: it takes nothing, then one, then the rest. */

import t, { type Test } from 'tap';
import { VIRTIO_BLK_T_IN } from '../../../../src/abi/virtio-blk.ts';
import { VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC } from '../../../../src/abi/virtio-net.ts';
import { featureSet, VIRTIO_F_VERSION_1 } from '../../../../src/abi/virtio-ring.ts';
import { DeviceRig } from '../../../../src/testing/index.ts';
import { ActiveQueue } from '../../../../src/virtio/active-queue.ts';
import { createRngDevice } from '../../../../src/virtio/device/rng/rng.ts';
import { VsockHandler } from '../../../../src/virtio/device/vsock/vsock-handler.ts';
import type { QueueHandler } from '../../../../src/virtio/device.ts';
import { DefinedDevice } from '../../../../src/virtio/device-sdk/defined-device.ts';
import { HeldQueue } from '../../../../src/virtio/queue/held-queue.ts';
import { BlkDriver, blkHeader, TemporaryFolder } from '../../../support/rigs/blk-driver.ts';
import { BASE, TX as CONSOLE_TX, ConsoleRig } from '../../../support/rigs/console.ts';
import { CONTROL, frame, NetRig, OWN_MAC, RX, TX } from '../../../support/rigs/net.ts';
import { TX as VSOCK_TX, VsockRig } from '../../../support/rigs/vsock.ts';

/** Puts gates in front of all queues of a handler. */
function gated(handler: QueueHandler, credits: number): QueueHandler {
  return {
    start: (context) =>
      handler.start({
        ...context,
        queues: context.queues.map(
          (queue) => queue && new ActiveQueue(new HeldQueue(queue.virtqueue, credits), queue.host),
        ),
      }),
    kick: (queue) => handler.kick(queue),
    ready: (token, events) => handler.ready?.(token, events),
    stop: () => handler.stop(),
    message: (message) => handler.message?.(message),
  };
}

interface Case {
  readonly rig: DeviceRig;
  /** Another handler. */
  readonly make: () => QueueHandler;
  readonly features: bigint;
  readonly queue: number;
  /** Makes a buffer available that the device has something to do with. */
  readonly add: () => void;
}

/** Serves what is there with so many credits for each queue. Returns how many buffers came back. */
function serve({ rig, make, features, queue }: Case, credits: number): number {
  rig.handOver(gated(make(), credits), features);
  let count = 0;
  // Also descriptors that it waits for, and unrequested kicks.
  for (let i = 0; i < 3; i++) {
    rig.notify(queue);
    for (let rounds = 0; rounds < 100 && rig.pump(0) > 0; rounds++);
    count += rig.queue(queue).completed().length;
  }
  return count;
}

function check(t: Test, one: Case): void {
  serve(one, 0);
  for (let i = 0; i < 3; i++) one.add();
  t.equal(serve(one, 0), 0, 'held: nothing');
  t.equal(serve(one, 1), 1, 'a step: one');
  t.equal(serve(one, 0), 0, 'held again');
  t.equal(serve(one, 1), 1, 'another step');
  t.equal(serve(one, 99), 1, 'released: the rest');
  t.equal(one.rig.brokenReason, undefined);
}

t.test('network: transmit, receive, control', (t) => {
  const queues: Record<string, (net: NetRig) => Pick<Case, 'queue' | 'add'>> = {
    transmit: ({ rig }) => ({
      queue: TX,
      add: () => void rig.queue(TX).add({ readable: [frame(OWN_MAC)] }),
    }),
    receive: ({ rig, wire }) => ({
      queue: RX,
      add: () => {
        rig.queue(RX).add({ writable: [2048] });
        wire.send(frame(OWN_MAC));
      },
    }),
    control: ({ rig }) => ({
      queue: CONTROL,
      add: () => {
        const command = [VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, 1];
        rig.queue(CONTROL).add({ readable: [Uint8Array.from(command)], writable: [1] });
      },
    }),
  };
  for (const [name, queue] of Object.entries(queues)) {
    t.test(name, (t) => {
      using net = new NetRig({ mergeable: true });
      const { rig, features } = net;
      check(t, { rig, features, make: () => net.handler, ...queue(net) });
      t.end();
    });
  }
  t.end();
});

t.test('block', (t) => {
  using folder = new TemporaryFolder();
  using blk = new BlkDriver(folder.file('disk', 4096), { engine: 'sync' });
  const { rig, device } = blk;
  const add = (): void =>
    void rig.queue(0).add({ readable: [blkHeader(VIRTIO_BLK_T_IN, 0)], writable: [512, 1] });
  const make = (): QueueHandler => (device.createHandler as () => QueueHandler).call(device);
  const features = device.features | featureSet(VIRTIO_F_VERSION_1);
  check(t, { rig, make, features, queue: 0, add });
  t.end();
});

t.test('console', (t) => {
  using console = new ConsoleRig(BASE).start(2);
  const { rig, device, features } = console;
  const add = (): void => void rig.queue(CONSOLE_TX).add({ readable: [Buffer.from('x')] });
  check(t, { rig, features, make: () => device.createHandler(), queue: CONSOLE_TX, add });
  t.end();
});

t.test('sockets', (t) => {
  using vsock = new VsockRig();
  const { rig, features } = vsock;
  const header = Buffer.alloc(44);
  const add = (): void => void rig.queue(VSOCK_TX).add({ readable: [header] });
  const make = (): QueueHandler => new VsockHandler(vsock.switch);
  check(t, { rig, features, make, queue: VSOCK_TX, add });
  t.end();
});

t.test('entropy, and devices in a page', (t) => {
  const own = new DefinedDevice('own0', {
    deviceId: 42,
    queues: { q: { handle: (request) => request.write(Uint8Array.of(1)) } },
  });
  const features = featureSet(VIRTIO_F_VERSION_1);
  for (const device of [createRngDevice({ name: 'rng0' }), own]) {
    using rig = new DeviceRig();
    const make = (): QueueHandler => (device.createHandler as () => QueueHandler).call(device);
    rig.start(make(), features, [16]);
    const add = (): void => void rig.queue(0).add({ writable: [8] });
    check(t, { rig, make, features, queue: 0, add });
  }
  t.end();
});
