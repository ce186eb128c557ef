/** Each rule of a queue that is checked: a breach is reported once, clean traffic never. */
import fc from 'fast-check';
import t from 'tap';
import {
  featureSet,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTQ_DESC_F_NEXT,
} from '../../../../src/abi/virtio-ring.ts';
import { Ram } from '../../../../src/memory/ram.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { createDriverQueue } from '../../../../src/testing/create-driver-queue.ts';
import type { DriverQueue } from '../../../../src/testing/driver-queue.ts';
import { writeDescriptor } from '../../../../src/testing/driver-split-queue.ts';
import { GuestHeap } from '../../../../src/testing/guest-heap.ts';
import { CheckedQueue } from '../../../../src/virtio/observe/check/checked-queue.ts';
import type { Breach } from '../../../../src/virtio/observe/observation.ts';
import { createVirtqueue } from '../../../../src/virtio/queue/create-virtqueue.ts';
import { DescriptorChain } from '../../../../src/virtio/queue/descriptor-chain.ts';
import { HeldQueue } from '../../../../src/virtio/queue/held-queue.ts';
import { POP_CHAIN, type Virtqueue } from '../../../../src/virtio/queue/virtqueue.ts';

/** A queue with both its sides, the device's under check. */
class CheckRig implements Disposable {
  readonly ram = new Ram(8 * MiB);
  readonly heap = new GuestHeap(this.ram.memory, MiB, 8 * MiB);
  readonly breaches: Breach[] = [];
  readonly driver: DriverQueue;
  readonly queue: CheckedQueue;
  readonly chain = new DescriptorChain(this.ram.memory);

  constructor(features: bigint, size = 8, around = (queue: Virtqueue): Virtqueue => queue) {
    this.driver = createDriverQueue(this.heap, { index: 1, size, features });
    const { config } = this.driver;
    const virtqueue = around(createVirtqueue(this.ram.memory, config, features));
    this.queue = new CheckedQueue(virtqueue, {
      memory: this.ram.memory,
      config,
      features,
      breach: (breach) => this.breaches.push(breach),
    });
  }

  get rules(): string[] {
    return this.breaches.map(({ side, rule }) => `${side} ${rule}`);
  }

  /** Makes a buffer available and takes it. */
  take(): void {
    this.driver.add({ readable: [new Uint8Array(16)], writable: [100], indirect: false });
    this.queue.pop(this.chain);
  }

  /** Uses what was taken, as it should be. */
  give(written = 4): void {
    this.queue.push(this.chain.id, this.chain.slots, written);
    if (this.queue.publish()) this.queue.interrupted();
    this.driver.completed();
  }

  wait(): void {
    for (let i = 0; i < 30; i++) this.queue.tick();
  }

  [Symbol.dispose](): void {
    this.ram[Symbol.dispose]();
  }
}

const SPLIT = featureSet(VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC);
const PACKED = SPLIT | featureSet(VIRTIO_F_RING_PACKED);

const FORMATS = [
  ['split', featureSet()],
  ['split, event index, indirect', SPLIT],
  ['split, in order', SPLIT | featureSet(VIRTIO_F_IN_ORDER)],
  ['packed', featureSet(VIRTIO_F_RING_PACKED)],
  ['packed, event index, indirect', PACKED],
  ['packed, in order', PACKED | featureSet(VIRTIO_F_IN_ORDER)],
] as const;

/** A clean device and a clean driver: steps of theirs in any order break no rule. */
for (const [name, features] of FORMATS) {
  t.test(`clean traffic on a queue: ${name}`, (t) => {
    const step = fc.oneof(
      fc.record({
        op: fc.constant('add' as const),
        readable: fc.array(fc.integer({ min: 1, max: 200 }), { maxLength: 2 }),
        writable: fc.array(fc.integer({ min: 1, max: 200 }), { maxLength: 2 }),
        indirect: fc.boolean(),
      }),
      fc.record({ op: fc.constantFrom('take', 'untake', 'kick', 'collect', 'tick', 'kicks') }),
      fc.record({ op: fc.constant('give' as const), which: fc.nat(7), part: fc.nat(100) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        using rig = new CheckRig(features);
        const { driver, queue } = rig;
        const taken: { id: number; slots: number; room: number; chain: DescriptorChain }[] = [];
        const order: DescriptorChain[] = [];
        const kick = (): void => {
          if (driver.kick()) queue.kicked();
        };
        for (const one of steps) {
          if (one.op === 'add' && 'readable' in one) {
            const count = one.readable.length + one.writable.length;
            if (count === 0 || driver.free < count) continue;
            driver.add({
              readable: one.readable.map((length) => new Uint8Array(length)),
              writable: one.writable,
              indirect: one.indirect && (features & SPLIT) === SPLIT,
            });
            kick();
          } else if (one.op === 'give' && 'which' in one) {
            const [chain] = taken.splice(one.which % Math.max(1, taken.length), 1);
            if (chain === undefined) continue;
            const { id, slots, room } = chain;
            queue.push(id, slots, Math.floor((room * one.part) / 100));
            if (queue.publish()) queue.interrupted();
          } else if (one.op === 'take') {
            const chain = new DescriptorChain(rig.ram.memory, 16);
            if (queue.pop(chain) !== POP_CHAIN) continue;
            const { id, slots, writableLength: room } = chain;
            taken.push({ id, slots, room, chain });
            order.push(chain);
          } else if (one.op === 'untake') {
            // What was taken last can be given back, unless it was used.
            const last = order.at(-1);
            const at = taken.findIndex(({ chain }) => chain === last);
            if (last === undefined || at < 0) continue;
            order.pop();
            taken.splice(at, 1);
            queue.undoPop(last);
          } else if (one.op === 'kicks') queue.enableKicks();
          else if (one.op === 'collect') driver.completed();
          else if (one.op === 'tick') rig.wait();
        }
        if (rig.breaches.length > 0) throw new Error(JSON.stringify(rig.breaches, null, 1));
      }),
    );
    t.end();
  });
}

/** For both formats: what is done, and which rule it breaks. */
const BOTH: readonly (readonly [name: string, rule: string, act: (rig: CheckRig) => void])[] = [
  [
    'a buffer that was used twice (§2.7.8)',
    'device used-twice',
    (rig) => {
      rig.take();
      const { id, slots } = rig.chain;
      rig.give();
      rig.take();
      rig.queue.push(id, slots, 0);
      rig.queue.push(id, slots, 0);
    },
  ],
  [
    'a buffer that was not taken (§2.7.8)',
    'device not-taken',
    (rig) => {
      rig.take();
      rig.queue.push(5, 1, 0);
    },
  ],
  [
    'more written than there is room (§2.7.8.2)',
    'device written-too-much',
    (rig) => {
      rig.take();
      rig.queue.push(rig.chain.id, rig.chain.slots, 101);
    },
  ],
  [
    'a device that writes where it may only read (§2.7.5.1)',
    'device readable-changed',
    (rig) => {
      rig.take();
      rig.ram.memory.writeU8(rig.chain.offset[0] as number, 1);
      rig.give();
    },
  ],
  [
    'an interrupt that is due and never sent (§2.7.7.2)',
    'device missing-interrupt',
    (rig) => {
      rig.take();
      rig.queue.push(rig.chain.id, rig.chain.slots, 0);
      t.equal(rig.queue.publish(), true);
      rig.wait();
    },
  ],
  [
    'used buffers that stay hidden (§2.7.8.2)',
    'device unpublished',
    (rig) => {
      rig.take();
      rig.queue.push(rig.chain.id, rig.chain.slots, 0);
      rig.wait();
    },
  ],
  [
    'a driver that does not notify (§2.7.10.1)',
    'driver missing-kick',
    (rig) => {
      t.equal(rig.queue.enableKicks(), false);
      rig.driver.add({ writable: [4] });
      rig.wait();
    },
  ],
];

for (const [format, features] of [
  ['split', SPLIT],
  ['packed', PACKED],
] as const) {
  for (const [name, rule, act] of BOTH) {
    t.test(`${format}: ${name}`, (t) => {
      using rig = new CheckRig(features);
      act(rig);
      t.same(rig.rules, [rule]);
      t.match(rig.breaches[0], { queue: 1, text: /\(virtio 1\.3 §/ });
      t.match(rig.breaches[0]?.dump[0], new RegExp(`^${format} ring of 8 descriptors`));
      t.ok((rig.breaches[0]?.dump.length ?? 0) > 2, 'the ring is shown');
      t.end();
    });
  }

  t.test(`${format}: an indirect table that changes in flight (§3.3.1)`, (t) => {
    using rig = new CheckRig(features);
    rig.driver.add({ readable: [new Uint8Array(16)], writable: [100], indirect: true });
    rig.queue.pop(rig.chain);
    const table = rig.driver.descriptorArea.getUint32(0, true);
    rig.ram.memory.writeU32(rig.ram.memory.offset(table, 16), 0);
    rig.give();
    t.same(rig.rules, ['driver changed']);
    t.end();
  });

  t.test(`${format}: what was reported once is not reported again`, (t) => {
    using rig = new CheckRig(features);
    for (let i = 0; i < 3; i++) {
      rig.take();
      rig.give(1000);
    }
    t.same(rig.rules, ['device written-too-much']);
    t.end();
  });

  t.test(`${format}: a side that was notified in time is not reported`, (t) => {
    using rig = new CheckRig(features);
    rig.queue.enableKicks();
    rig.driver.add({ writable: [4] });
    for (let i = 0; i < 15; i++) rig.queue.tick();
    rig.queue.kicked();
    rig.wait();
    rig.queue.pop(rig.chain);
    rig.queue.push(rig.chain.id, rig.chain.slots, 0);
    const wanted = rig.queue.publish();
    for (let i = 0; i < 3; i++) rig.queue.tick();
    if (wanted) rig.queue.interrupted();
    rig.wait();
    t.same(rig.rules, []);
    t.end();
  });

  t.test(`${format}: a queue that is held back misses no kick`, (t) => {
    using rig = new CheckRig(features, 8, (queue) => new HeldQueue(queue, 0));
    rig.driver.add({ writable: [4] });
    rig.queue.kicked();
    t.equal(rig.queue.enableKicks(), false);
    rig.wait();
    t.same(rig.rules, []);
    t.end();
  });
}

t.test('split: descriptors in flight', (t) => {
  t.test('that the driver changes (§3.3.1)', (t) => {
    using rig = new CheckRig(featureSet());
    rig.take();
    rig.driver.descriptorArea.setUint32(8, 1, true);
    rig.give();
    t.same(rig.rules, ['driver changed']);
    t.match(rig.breaches[0]?.dump.join('\n'), /descriptor 0: 0x\w+, 1 bytes/);
    t.end();
  });

  t.test('that the driver makes available again (§2.7.13.1)', (t) => {
    using rig = new CheckRig(featureSet());
    rig.take();
    rig.driver.driverArea.setUint16(4 + 2, 1, true);
    rig.driver.driverArea.setUint16(2, 2, true);
    t.equal(rig.queue.pop(rig.chain), POP_CHAIN);
    t.same(rig.rules, ['driver reused']);
    t.end();
  });

  t.test('with flags that mean nothing (§2.7.5)', (t) => {
    using rig = new CheckRig(featureSet());
    const gpa = rig.heap.allocate(16);
    writeDescriptor(rig.driver.descriptorArea, 0, gpa, 16, 0x100, 0);
    rig.driver.driverArea.setUint16(2, 1, true);
    rig.queue.pop(rig.chain);
    t.same(rig.rules, ['driver descriptor-flags']);
    t.end();
  });

  t.test('chained out of order, with VIRTIO_F_IN_ORDER (§2.7.5.2)', (t) => {
    using rig = new CheckRig(featureSet(VIRTIO_F_IN_ORDER));
    const gpa = rig.heap.allocate(16);
    writeDescriptor(rig.driver.descriptorArea, 0, gpa, 16, VIRTQ_DESC_F_NEXT, 2);
    writeDescriptor(rig.driver.descriptorArea, 2, gpa, 16, 0, 0);
    rig.driver.driverArea.setUint16(2, 1, true);
    rig.queue.pop(rig.chain);
    t.same(rig.rules, ['driver in-order-next']);
    t.end();
  });
  t.end();
});

t.test('what pop finds is reported with the ring', (t) => {
  using rig = new CheckRig(featureSet());
  rig.driver.driverArea.setUint16(2, 100, true);
  t.ok(rig.queue.pop(rig.chain) < 0);
  rig.queue.pop(rig.chain);
  t.same(rig.rules, ['driver fault-1']);
  t.match(rig.breaches[0]?.text, /more buffers .* \(virtio 1\.3 §2\.7\.13\)/);
  t.match(rig.breaches[0]?.dump.join('\n'), /available: flags 0, idx 100/);
  t.end();
});

t.test('flags by which a driver asks for interrupts', (t) => {
  const cases: readonly (readonly [string, bigint, number, number, string])[] = [
    ['split, 2 (§2.7.7.1)', featureSet(), 0, 2, 'driver avail-flags'],
    ['split, 1 with VIRTIO_F_EVENT_IDX (§2.7.7.1)', SPLIT, 0, 1, 'driver avail-flags'],
    ['packed, 3 (§2.8.14)', PACKED, 2, 3, 'driver event-flags'],
    [
      'packed, 2 without VIRTIO_F_EVENT_IDX (§2.8.14)',
      featureSet(VIRTIO_F_RING_PACKED),
      2,
      2,
      'driver event-flags',
    ],
  ];
  for (const [name, features, at, value, rule] of cases) {
    using rig = new CheckRig(features);
    rig.take();
    rig.driver.driverArea.setUint16(at, value, true);
    rig.give();
    t.same(rig.rules, [rule], name);
  }
  t.end();
});
