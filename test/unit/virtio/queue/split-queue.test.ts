import t from 'tap';
import {
  VIRTQ_DESC_F_INDIRECT as INDIRECT,
  VIRTQ_DESC_F_NEXT as NEXT,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTQ_DESC_F_WRITE as WRITE,
} from '../../../../src/abi/virtio-ring.ts';
import { GiB, MiB } from '../../../../src/memory/ram-layout.ts';
import * as q from '../../../../src/virtio/queue/virtqueue.ts';
import { QueueFixture, type RawDescriptor } from '../../../support/rigs/virtqueue.ts';

const BUFFER = 2 * MiB;

/** A queue of 8 whose table holds the descriptors, with head 0 available. */
function withChain(
  descriptors: readonly RawDescriptor[],
  features: number[] = [VIRTIO_F_INDIRECT_DESC],
  ramSize = 16 * MiB,
): QueueFixture {
  const f = new QueueFixture(features, { ramSize });
  descriptors.forEach((raw, i) => {
    f.descriptor(i, raw);
  });
  f.makeAvailable(0);
  return f;
}

/** Pops a chain whose single descriptor refers to this table. */
function popTable(entries: readonly RawDescriptor[], ramSize?: number): number {
  using f = withChain([], undefined, ramSize);
  f.descriptor(0, { addr: f.table(entries), len: entries.length * 16, flags: INDIRECT });
  return f.pop();
}

t.test('§2.7.5 a chain is followed by next, readable segments first', async (t) => {
  using f = withChain([
    { addr: BUFFER, len: 10, flags: NEXT, nextOrId: 3 },
    { addr: BUFFER + 200, len: 30, flags: WRITE },
    { addr: 0, len: 0 },
    { addr: BUFFER + 100, len: 20, flags: NEXT | WRITE, nextOrId: 1 },
  ]);
  t.equal(f.pop(), q.POP_CHAIN);
  const { count, readable, readableLength, writableLength, slots, offset, length } = f.chain;
  t.strictSame([count, readable, readableLength, writableLength, slots], [3, 1, 10, 50, 1]);
  t.strictSame([...offset.subarray(0, 3)], [BUFFER, BUFFER + 100, BUFFER + 200]);
  t.strictSame([...length.subarray(0, 3)], [10, 20, 30]);
  t.equal(f.pop(), q.POP_EMPTY);
});

t.test('§2.7.5 descriptors without bytes are left out, wherever they point', async (t) => {
  using f = withChain([
    { addr: 2n ** 64n - 1n, len: 0, flags: NEXT, nextOrId: 1 },
    { addr: BUFFER, len: 4, flags: NEXT, nextOrId: 2 },
    { addr: 0, len: 0, flags: WRITE },
  ]);
  t.equal(f.pop(), q.POP_CHAIN);
  t.strictSame([f.chain.count, f.chain.readable, f.chain.readableLength], [1, 1, 4]);
});

const broken: readonly (readonly [string, number, readonly RawDescriptor[]])[] = [
  [
    '§2.7.4.2 a readable descriptor after a writable one',
    q.FAULT_READ_AFTER_WRITE,
    [
      { addr: BUFFER, len: 1, flags: NEXT | WRITE, nextOrId: 1 },
      { addr: BUFFER, len: 1 },
    ],
  ],
  [
    '§2.7.5 next is not below the queue size',
    q.FAULT_HEAD_RANGE,
    [{ addr: BUFFER, len: 1, flags: NEXT, nextOrId: 8 }],
  ],
  [
    '§2.7.5.2 a loop of one descriptor',
    q.FAULT_CHAIN_LOOP,
    [{ addr: BUFFER, len: 1, flags: NEXT, nextOrId: 0 }],
  ],
  [
    '§2.7.5.2 a loop of descriptors without bytes',
    q.FAULT_CHAIN_LOOP,
    [
      { addr: BUFFER, len: 0, flags: NEXT, nextOrId: 1 },
      { addr: BUFFER, len: 0, flags: NEXT, nextOrId: 0 },
    ],
  ],
  ['§2.7.5 a buffer past the end of RAM', q.FAULT_ADDRESS, [{ addr: 16 * MiB - 1, len: 2 }]],
  ['§2.7.5 a buffer in the hole', q.FAULT_ADDRESS, [{ addr: 0xc000_0000, len: 1 }]],
  ['§2.7.5 a buffer at the top', q.FAULT_ADDRESS, [{ addr: 2n ** 64n - 1n, len: 2 }]],
  ['§2.7.5 an address above 2^53', q.FAULT_ADDRESS, [{ addr: 2n ** 63n + 1n, len: 1 }]],
  [
    '§2.7.5.3.1 INDIRECT together with NEXT',
    q.FAULT_INDIRECT,
    [{ addr: BUFFER, len: 16, flags: INDIRECT | NEXT, nextOrId: 1 }],
  ],
  [
    '§2.7.5.3 a table that is no multiple of 16 bytes',
    q.FAULT_INDIRECT,
    [{ addr: BUFFER, len: 17, flags: INDIRECT }],
  ],
  [
    '§2.7.5.3 a table that is not in RAM',
    q.FAULT_INDIRECT,
    [{ addr: 16 * MiB - 16, len: 32, flags: INDIRECT }],
  ],
  [
    '§2.7.5.3 a table of the greatest length',
    q.FAULT_INDIRECT,
    [{ addr: BUFFER, len: 0xffff_fff0, flags: INDIRECT }],
  ],
  ['§2.7.13.1 an empty table', q.FAULT_EMPTY_CHAIN, [{ addr: BUFFER, len: 0, flags: INDIRECT }]],
];

for (const [name, fault, descriptors] of broken) {
  t.test(`${name} is a fault`, async (t) => {
    using f = withChain(descriptors);
    t.equal(f.pop(), fault);
  });
}

t.test('§2.7.5 a head that is not below the queue size is a fault', async (t) => {
  using f = new QueueFixture([]);
  f.makeAvailable(8);
  t.equal(f.pop(), q.FAULT_HEAD_RANGE);
});

t.test('§2.7.5.2 a chain of 2^32 bytes is taken, a longer one is a fault', async (t) => {
  const quarter = { addr: 0, len: GiB, flags: NEXT };
  const whole = [1, 2, 3].map((nextOrId) => ({ ...quarter, nextOrId }));
  using exact = withChain([...whole, { ...quarter, flags: 0 }], [], 2 * GiB);
  t.equal(exact.pop(), q.POP_CHAIN);
  t.equal(exact.chain.readableLength, 2 ** 32);
  using more = withChain([...whole, { ...quarter, nextOrId: 4 }, { addr: 0, len: 1 }], [], 2 * GiB);
  t.equal(more.pop(), q.FAULT_LENGTH);
});

t.test('§2.7.5.3.1 INDIRECT without VIRTIO_F_INDIRECT_DESC is a fault', async (t) => {
  using f = withChain([{ addr: BUFFER, len: 16, flags: INDIRECT }], []);
  t.equal(f.pop(), q.FAULT_INDIRECT);
});

t.test('§2.7.5.3.1 a table in a table is a fault', async (t) => {
  t.equal(popTable([{ addr: BUFFER, len: 16, flags: INDIRECT }]), q.FAULT_INDIRECT);
});

t.test('§2.7.5.3 next outside of the table is a fault', async (t) => {
  t.equal(popTable([{ addr: BUFFER, len: 1, flags: NEXT, nextOrId: 1 }]), q.FAULT_HEAD_RANGE);
});

t.test('§2.7.5.2 a loop in a table is a fault', async (t) => {
  const loop = [1, 0].map((nextOrId) => ({ addr: BUFFER, len: 0, flags: NEXT, nextOrId }));
  t.equal(popTable(loop), q.FAULT_CHAIN_LOOP);
});

t.test('§2.7.5.3 entries of a table are chained by next', async (t) => {
  using f = withChain([]);
  const table = f.table([
    { addr: BUFFER, len: 1, flags: NEXT, nextOrId: 2 },
    { addr: BUFFER, len: 4, flags: WRITE },
    { addr: BUFFER, len: 2, flags: NEXT, nextOrId: 1 },
  ]);
  f.descriptor(0, { addr: table, len: 48, flags: INDIRECT });
  t.equal(f.pop(), q.POP_CHAIN);
  t.strictSame([...f.chain.length.subarray(0, f.chain.count)], [1, 2, 4]);
});

t.test('§2.7.5.3.2 WRITE next to INDIRECT is ignored', async (t) => {
  using f = withChain([]);
  const table = f.table([{ addr: BUFFER, len: 1 }]);
  f.descriptor(0, { addr: table, len: 16, flags: INDIRECT | WRITE });
  t.equal(f.pop(), q.POP_CHAIN);
  t.equal(f.chain.readable, 1);
});

t.test('§2.7.5.3.2 normal descriptors may be followed by a table', async (t) => {
  using f = withChain([{ addr: BUFFER, len: 5, flags: NEXT, nextOrId: 1 }]);
  const table = f.table([{ addr: BUFFER, len: 6, flags: WRITE }]);
  f.descriptor(1, { addr: table, len: 16, flags: INDIRECT });
  t.equal(f.pop(), q.POP_CHAIN);
  t.strictSame([f.chain.readableLength, f.chain.writableLength], [5, 6]);
});

t.test('§2.7.4.1 tables longer than the queue are taken up to 1024 segments', async (t) => {
  const entries = (count: number) =>
    Array.from({ length: count }, (_, i) => ({
      addr: BUFFER,
      len: 1,
      flags: i + 1 < count ? NEXT : 0,
      nextOrId: i + 1,
    }));
  t.equal(popTable(entries(1024)), q.POP_CHAIN);
  t.equal(popTable(entries(1025)), q.FAULT_CHAIN_LOOP);
});

t.test('§2.7.13 an available index that jumps ahead is a fault', async (t) => {
  using f = new QueueFixture([]);
  f.driver.driverArea.setUint16(2, 9, true);
  t.equal(f.pop(), q.FAULT_INDEX_JUMP);
});

t.test('§2.7.13 more chains than the queue has room for is a fault', async (t) => {
  using f = withChain([{ addr: BUFFER, len: 1 }]);
  for (let i = 0; i < 7; i++) f.makeAvailable(0);
  for (let i = 0; i < 8; i++) t.equal(f.pop(), q.POP_CHAIN);
  f.makeAvailable(0);
  t.equal(f.pop(), q.FAULT_INDEX_JUMP);
});

t.test('§2.7.6.1 an available index that goes back is a fault', async (t) => {
  using f = withChain([{ addr: BUFFER, len: 1 }]);
  f.take();
  f.driver.driverArea.setUint16(2, 0, true);
  t.equal(f.pop(), q.FAULT_INDEX_JUMP);
});

t.test('a fault stays, whatever the driver and the device do after it', async (t) => {
  using f = withChain([{ addr: BUFFER, len: 1 }]);
  f.take();
  f.makeAvailable(8);
  t.equal(f.pop(), q.FAULT_HEAD_RANGE);
  f.driver.driverArea.setUint16(4 + 2, 0, true);
  t.equal(f.pop(), q.FAULT_HEAD_RANGE);
  t.equal(f.device.enableKicks(), false);
  f.device.undoPop(f.chain);
  t.equal(f.pop(), q.FAULT_HEAD_RANGE);
});

t.test('§2.7.8 used elements carry head and bytes written, in order of use', async (t) => {
  using f = new QueueFixture([]);
  const tokens = [1, 2, 3].map((length) => f.driver.add({ writable: [length] }));
  const taken = tokens.map(() => f.take());
  t.equal(f.driver.deviceArea.getUint16(2, true), 0);
  for (const chain of taken.toReversed()) f.device.push(chain.id, chain.slots, chain.writable);
  t.equal(f.driver.deviceArea.getUint16(2, true), 0, 'not visible before publish');
  f.device.publish();
  t.strictSame(
    f.driver.completed().map(({ token, written }) => [token, written]),
    [
      [2, 3],
      [1, 2],
      [0, 1],
    ],
  );
});

t.test('§2.7.7.2 flags decide on interrupts without VIRTIO_F_EVENT_IDX', async (t) => {
  using f = new QueueFixture([]);
  f.driver.add({ writable: [1] });
  t.equal(f.serve().interrupt, true);
  f.driver.disableInterrupts();
  f.driver.add({ writable: [1] });
  t.equal(f.serve().interrupt, false);
  f.driver.driverArea.setUint16(4 + 2 * 8, 0x7777, true);
  t.equal(f.driver.enableInterrupts(), true);
  f.driver.add({ writable: [1] });
  t.equal(f.serve().interrupt, true, 'used_event is ignored');
  t.equal(f.device.publish(), false, 'nothing new');
});

t.test('§2.7.7.2 used_event decides on interrupts with VIRTIO_F_EVENT_IDX', async (t) => {
  using f = new QueueFixture([VIRTIO_F_EVENT_IDX]);
  f.driver.driverArea.setUint16(0, 1, true);
  f.driver.driverArea.setUint16(4 + 2 * 8, 2, true);
  const interrupts: boolean[] = [];
  for (let i = 0; i < 5; i++) {
    f.driver.add({ writable: [1] });
    interrupts.push(f.serve().interrupt);
  }
  t.strictSame(interrupts, [false, false, true, false, false]);
});

t.test('§2.7.7.2 a batch that passes used_event interrupts once', async (t) => {
  using f = new QueueFixture([VIRTIO_F_EVENT_IDX]);
  f.driver.driverArea.setUint16(4 + 2 * 8, 1, true);
  for (let i = 0; i < 4; i++) f.driver.add({ writable: [1] });
  t.strictSame(f.serve(), { count: 4, interrupt: true });
});

t.test('§2.7.10.2 flags ask for kicks without VIRTIO_F_EVENT_IDX', async (t) => {
  using f = new QueueFixture([]);
  const flags = () => f.driver.deviceArea.getUint16(0, true);
  t.equal(flags(), 0);
  f.device.disableKicks();
  t.equal(flags(), 1);
  f.driver.add({ writable: [1] });
  t.equal(f.driver.kick(), false);
  t.equal(f.device.enableKicks(), true, 'a chain came meanwhile');
  t.equal(flags(), 0);
  f.serve();
  t.equal(f.device.enableKicks(), false);
  f.driver.add({ writable: [1] });
  t.equal(f.driver.kick(), true);
});

t.test('§2.7.10.2 avail_event asks for kicks with VIRTIO_F_EVENT_IDX', async (t) => {
  using f = new QueueFixture([VIRTIO_F_EVENT_IDX]);
  const kick = () => {
    f.driver.add({ writable: [1] });
    return f.driver.kick();
  };
  t.equal(kick(), true);
  t.equal(kick(), false);
  f.device.disableKicks();
  t.equal(f.driver.deviceArea.getUint16(0, true), 0, 'flags stay 0');
  t.equal(f.device.enableKicks(), true);
  f.serve();
  t.equal(f.device.enableKicks(), false);
  t.equal(f.driver.deviceArea.getUint16(4 + 8 * 8, true), 2);
  t.equal(kick(), true);
});

t.test('§2.7.9 one used element stands for a batch', async (t) => {
  using f = new QueueFixture([VIRTIO_F_IN_ORDER]);
  for (let i = 0; i < 3; i++) f.driver.add({ readable: [new Uint8Array(1)], writable: [i + 1] });
  t.equal(f.serve().count, 3);
  const { deviceArea } = f.driver;
  t.strictSame([deviceArea.getUint16(2, true), deviceArea.getUint32(4, true)], [3, 4]);
  t.equal(deviceArea.getUint32(12, true), 0, 'the next element is untouched');
  t.strictSame(
    f.driver.completed().map(({ token, written }) => [token, written]),
    [
      [0, 1],
      [1, 2],
      [2, 3],
    ],
  );
});

t.test('§2.7.9 a chain that was not written completely is never skipped', async (t) => {
  using f = new QueueFixture([VIRTIO_F_IN_ORDER]);
  for (let i = 0; i < 3; i++) f.driver.add({ writable: [10] });
  for (const written of [10, 4, 10]) {
    const { id, slots } = f.take();
    f.device.push(id, slots, written);
  }
  f.device.publish();
  t.strictSame(
    f.driver.completed().map(({ written }) => written),
    [10, 4, 10],
  );
});

t.test('§6.2 with VIRTIO_F_IN_ORDER chains that overtake others are held back', async (t) => {
  using f = new QueueFixture([VIRTIO_F_IN_ORDER]);
  for (let i = 0; i < 3; i++) f.driver.add({ writable: [1] });
  const [a, b, c] = [f.take(), f.take(), f.take()];
  f.device.push(c.id, c.slots, 1);
  f.device.push(b.id, b.slots, 1);
  t.equal(f.device.publish(), false);
  t.strictSame(f.driver.completed(), []);
  f.device.push(a.id, a.slots, 1);
  t.equal(f.device.publish(), true);
  t.strictSame(
    f.driver.completed().map(({ token }) => token),
    [0, 1, 2],
  );
});

t.test('undoPop gives chains back, latest first', async (t) => {
  for (const features of [[], [VIRTIO_F_IN_ORDER]]) {
    using f = new QueueFixture(features);
    for (let i = 0; i < 3; i++) f.driver.add({ writable: [i + 1] });
    const first = f.take();
    f.take();
    f.take();
    f.device.undoPop(f.chain);
    f.device.undoPop(f.chain);
    t.strictSame([f.take().writable, f.take().writable, f.pop()], [2, 3, q.POP_EMPTY]);
    f.device.undoPop(f.chain);
    f.device.push(first.id, first.slots, 1);
    f.device.publish();
    t.equal(f.driver.completed().length, 1);
    t.strictSame(f.device.state(), { nextAvail: 2, nextUsed: 1 });
  }
});

t.test('§2.7.13.3 indices wrap at 65536, over hand-overs too', async (t) => {
  using f = new QueueFixture([VIRTIO_F_EVENT_IDX]);
  let interrupts = 0;
  for (let i = 0; i < 70_000; i++) {
    f.driver.add({ writable: [1] });
    if (f.serve().interrupt) interrupts++;
    if (f.driver.completed().length !== 1) t.fail(`chain ${i} did not come back`);
    if (i % 1000 === 0) f.handOver();
  }
  t.equal(interrupts, 70_000);
  t.strictSame(f.device.state(), { nextAvail: 70_000 - 65_536, nextUsed: 70_000 - 65_536 });
});
