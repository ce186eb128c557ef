import t from 'tap';
import {
  featureSet,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
} from '../../../src/abi/virtio-ring.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import { DeviceRig } from '../../../src/testing/index.ts';
import type { ActiveQueue } from '../../../src/virtio/active-queue.ts';
import { type HandlerContext, type QueueHandler, READABLE } from '../../../src/virtio/device.ts';
import { DescriptorChain } from '../../../src/virtio/queue/descriptor-chain.ts';
import { faultText, POP_CHAIN } from '../../../src/virtio/queue/virtqueue.ts';

/** Writes each request back, upper case, either at once or when its eventfd is signaled. */
class Echo implements QueueHandler {
  readonly #gate: Eventfd | undefined;
  #context!: HandlerContext;
  #chain!: DescriptorChain;

  constructor(gate?: Eventfd) {
    this.#gate = gate;
  }
  start(context: HandlerContext): void {
    this.#context = context;
    this.#chain = new DescriptorChain(context.memory);
    if (this.#gate !== undefined) context.reactor.watch(this.#gate.fd, READABLE, 7);
    context.log('started');
    context.post({ started: true });
  }
  kick(queue: number): void {
    if (this.#gate === undefined) this.#serve(queue);
  }
  ready(token: number, events: number): void {
    if (token !== 7 || (events & READABLE) === 0) return;
    this.#gate?.drain();
    this.#serve(0);
  }
  stop(): void {}

  #serve(index: number): void {
    const queue = this.#context.queues[index] as ActiveQueue;
    const { virtqueue } = queue;
    const chain = this.#chain;
    do {
      let popped = virtqueue.pop(chain);
      while (popped === POP_CHAIN) {
        const text = new Uint8Array(chain.readableLength);
        chain.read(0, text);
        const upper = Buffer.from(Buffer.from(text).toString().toUpperCase());
        virtqueue.push(chain.id, chain.slots, chain.write(0, upper));
        popped = virtqueue.pop(chain);
      }
      if (popped < 0) this.#context.broken(faultText(popped));
    } while (virtqueue.enableKicks());
    queue.publish();
  }
}

const formats: readonly (readonly [string, bigint])[] = [
  ['split', 0n],
  [
    'split, all features',
    featureSet(VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER),
  ],
  ['packed', featureSet(VIRTIO_F_RING_PACKED)],
  [
    'packed, all features',
    featureSet(VIRTIO_F_RING_PACKED, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER),
  ],
];

for (const [name, features] of formats) {
  t.test(`${name}: serves a handler`, async (t) => {
    using rig = new DeviceRig();
    rig.start(new Echo(), features, [undefined, 16]);
    const driver = rig.queue(1);
    const token = driver.add({
      readable: [Buffer.from('vir'), Buffer.from('tio')],
      writable: [4, 8],
    });
    t.equal(rig.kick(1), true);
    t.equal(rig.interrupts(1), 1);
    const [done] = driver.completed();
    t.equal(done?.token, token);
    t.equal(Buffer.from(done?.data ?? []).toString(), 'VIRTIO');
    t.strictSame([rig.logs, rig.posted], [['started'], [{ started: true }]]);
    t.throws(() => rig.queue(0), { code: 'E_RIG_QUEUE' });
  });

  t.test(`${name}: another handler continues where one left off`, async (t) => {
    using rig = new DeviceRig();
    rig.start(new Echo(), features, [16]);
    for (let i = 0; i < 20; i++) {
      rig.queue(0).add({ readable: [Buffer.from('a')], writable: [1] });
      rig.notify(0);
      t.equal(rig.queue(0).completed().length, 1);
      rig.handOver(new Echo(), features);
    }
    t.equal(rig.interrupts(0), 20);
  });
}

t.test('descriptors are watched, and delivered when pumped', async (t) => {
  using gate = new Eventfd();
  using rig = new DeviceRig();
  rig.start(new Echo(gate), 0n, [16]);
  rig.queue(0).add({ readable: [Buffer.from('a')], writable: [1] });
  rig.kick(0);
  t.equal(rig.pump(), 0);
  t.equal(rig.interrupts(0), 0);
  gate.signal();
  rig.pumpUntil(() => rig.interrupts(0) > 0);
  t.equal(Buffer.from(rig.queue(0).completed()[0]?.data ?? []).toString(), 'A');
  rig.stop();
  gate.signal();
  t.equal(rig.pump(), 0);
});

t.test('a kick that the handler asks for waits for the next pump', async (t) => {
  using rig = new DeviceRig();
  let kicks = 0;
  let queue: ActiveQueue | undefined;
  const handler: QueueHandler = {
    start: (context) => {
      queue = context.queues[0];
    },
    kick: () => {
      kicks++;
      if (kicks < 3) queue?.kickAgain();
    },
    ready: () => {},
    stop: () => {},
  };
  rig.start(handler, 0n, [16]);
  t.equal(kicks, 1);
  t.strictSame([rig.pump(), rig.pump(), rig.pump()], [1, 1, 0]);
  t.equal(kicks, 3);
});

t.test('a broken driver is reported with its clause', async (t) => {
  using rig = new DeviceRig();
  rig.start(new Echo(), 0n, [16]);
  rig.queue(0).driverArea.setUint16(2, 1000, true);
  rig.notify(0);
  t.match(rig.brokenReason, /§2\.7\.13/);
});
