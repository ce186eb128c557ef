/** The gate in front of a queue: chains pass one credit at a time. */
import fc from 'fast-check';
import t from 'tap';
import {
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { HeldQueue } from '../../../../src/virtio/queue/held-queue.ts';
import { POP_CHAIN, POP_EMPTY } from '../../../../src/virtio/queue/virtqueue.ts';
import { QueueFixture } from '../../../support/rigs/virtqueue.ts';

const FORMATS = [
  ['split', [VIRTIO_F_VERSION_1]],
  ['split, event index', [VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX]],
  ['packed', [VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED]],
  ['packed, event index', [VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX]],
] as const;

for (const [name, features] of FORMATS) {
  t.test(`${name}: no more chains than credits`, (t) => {
    using f = new QueueFixture(features);
    for (let i = 0; i < 3; i++) f.driver.add({ writable: [4] });
    const before = f.device.state();
    const shut = new HeldQueue(f.device, 0);
    t.equal(shut.pop(f.chain), POP_EMPTY);
    t.equal(shut.enableKicks(), false, 'or a device would pop forever');
    t.same(shut.state(), before);
    const one = new HeldQueue(f.device, 1);
    t.equal(one.enableKicks(), true);
    t.equal(one.pop(f.chain), POP_CHAIN);
    t.equal(one.pop(f.chain), POP_EMPTY);
    one.push(f.chain.id, f.chain.slots, 4);
    one.publish();
    t.equal(f.driver.completed().length, 1);
    f.device = one;
    f.handOver();
    t.equal(f.serve().count, 2, 'the others wait where they were');
    t.equal(f.driver.completed().length, 2);
    t.end();
  });
}

t.test('a chain that is given back gives its credit back', (t) => {
  using f = new QueueFixture([VIRTIO_F_VERSION_1]);
  f.driver.add({ writable: [4] });
  const one = new HeldQueue(f.device, 1);
  t.equal(one.pop(f.chain), POP_CHAIN);
  one.undoPop(f.chain);
  t.equal(one.enableKicks(), true);
  t.equal(one.pop(f.chain), POP_CHAIN);
  t.end();
});

t.test('whatever the credits, every chain comes back once, in order', (t) => {
  const steps = fc.array(fc.record({ add: fc.nat(3), credits: fc.nat(3) }), { maxLength: 40 });
  fc.assert(
    fc.property(fc.constantFrom(...FORMATS), steps, ([, features], all) => {
      using f = new QueueFixture(features);
      const inner = f.device;
      const sent: number[] = [];
      const back: number[] = [];
      for (const { add, credits } of [...all, { add: 0, credits: 99 }]) {
        for (let i = 0; i < add && f.driver.free > 0; i++) {
          sent.push(f.driver.add({ writable: [1] }));
        }
        f.device = new HeldQueue(inner, credits);
        const { count } = f.serve();
        if (count > credits) return false;
        back.push(...f.driver.completed().map(({ token }) => token));
      }
      return JSON.stringify(back) === JSON.stringify(sent);
    }),
  );
  t.end();
});
