import t from 'tap';
import {
  VIRTQ_DESC_F_INDIRECT as INDIRECT,
  VIRTQ_DESC_F_NEXT as NEXT,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
  VIRTQ_DESC_F_WRITE as WRITE,
} from '../../../../src/abi/virtio-ring.ts';
import { GiB, MiB } from '../../../../src/memory/ram-layout.ts';
import * as q from '../../../../src/virtio/queue/virtqueue.ts';
import { LAP_0, LAP_1, QueueFixture, type RawDescriptor } from '../../../support/rigs/virtqueue.ts';

const BUFFER = 2 * MiB;
const PACKED = VIRTIO_F_RING_PACKED;

/** A queue of 8 whose ring starts with the descriptors, available in the first lap. */
function withList(
  descriptors: readonly RawDescriptor[],
  features: number[] = [VIRTIO_F_INDIRECT_DESC],
  ramSize = 16 * MiB,
): QueueFixture {
  const f = new QueueFixture([PACKED, ...features], { ramSize });
  descriptors.forEach((raw, i) => {
    f.descriptor(i, { ...raw, flags: (raw.flags ?? 0) | LAP_1 });
  });
  return f;
}

/** Pops a list that is one table. */
function popTable(f: QueueFixture, entries: readonly RawDescriptor[], id = 0): number {
  f.descriptor(0, {
    addr: f.table(entries),
    len: entries.length * 16,
    flags: INDIRECT | LAP_1,
    nextOrId: id,
  });
  return f.pop();
}

const flagsAt = (f: QueueFixture, index: number) =>
  f.driver.descriptorArea.getUint16(index * 16 + 14, true);

t.test('§2.8.6 a list is followed by NEXT; the id is in its last descriptor', async (t) => {
  using f = withList([
    { addr: BUFFER, len: 10, flags: NEXT, nextOrId: 5 },
    { addr: BUFFER + 100, len: 20, flags: NEXT | WRITE, nextOrId: 6 },
    { addr: BUFFER + 200, len: 30, flags: WRITE, nextOrId: 77 },
  ]);
  t.equal(f.pop(), q.POP_CHAIN);
  const { id, count, readable, readableLength, writableLength, slots, offset } = f.chain;
  t.strictSame([id, count, readable, slots], [77, 3, 1, 3]);
  t.strictSame([readableLength, writableLength], [10, 50]);
  t.strictSame([...offset.subarray(0, 3)], [BUFFER, BUFFER + 100, BUFFER + 200]);
  t.equal(f.pop(), q.POP_EMPTY);
});

t.test('§2.8.15 a descriptor is not used before its flags change', async (t) => {
  using f = new QueueFixture([PACKED]);
  for (const flags of [0, LAP_0, LAP_0 | LAP_1]) {
    f.descriptor(0, { addr: BUFFER, len: 1, flags });
    t.equal(f.pop(), q.POP_EMPTY);
  }
  f.descriptor(0, { addr: BUFFER, len: 1, flags: LAP_1 });
  t.equal(f.pop(), q.POP_CHAIN);
});

const broken: readonly (readonly [string, number, readonly RawDescriptor[]])[] = [
  [
    '§2.8.17 a readable descriptor after a writable one',
    q.FAULT_READ_AFTER_WRITE,
    [
      { addr: BUFFER, len: 1, flags: NEXT | WRITE },
      { addr: BUFFER, len: 1 },
    ],
  ],
  [
    '§2.8.17 a list of which only the start is available',
    q.FAULT_NOT_AVAILABLE,
    [{ addr: BUFFER, len: 1, flags: NEXT }],
  ],
  ['§2.8.4 a buffer past the end of RAM', q.FAULT_ADDRESS, [{ addr: 16 * MiB - 1, len: 2 }]],
  ['§2.8.4 a buffer at the top', q.FAULT_ADDRESS, [{ addr: 2n ** 64n - 1n, len: 2 }]],
  [
    '§2.8.19 INDIRECT together with NEXT',
    q.FAULT_INDIRECT,
    [
      { addr: BUFFER, len: 16, flags: INDIRECT | NEXT },
      { addr: BUFFER, len: 16 },
    ],
  ],
  [
    '§2.8.19 INDIRECT at the end of a list',
    q.FAULT_INDIRECT,
    [
      { addr: BUFFER, len: 16, flags: NEXT },
      { addr: BUFFER, len: 16, flags: INDIRECT },
    ],
  ],
  [
    '§2.8.7 a table that is no multiple of 16 bytes',
    q.FAULT_INDIRECT,
    [{ addr: BUFFER, len: 17, flags: INDIRECT }],
  ],
  [
    '§2.8.7 a table that is not in RAM',
    q.FAULT_INDIRECT,
    [{ addr: 16 * MiB - 16, len: 32, flags: INDIRECT }],
  ],
  [
    '§2.8.7 a table of the greatest length',
    q.FAULT_CHAIN_LOOP,
    [{ addr: BUFFER, len: 0xffff_fff0, flags: INDIRECT }],
  ],
  ['§2.8 an empty table', q.FAULT_EMPTY_CHAIN, [{ addr: BUFFER, len: 0, flags: INDIRECT }]],
];

for (const [name, fault, descriptors] of broken) {
  t.test(`${name} is a fault`, async (t) => {
    using f = withList(descriptors);
    t.equal(f.pop(), fault);
    t.equal(f.pop(), fault);
    t.equal(f.device.enableKicks(), false);
  });
}

t.test('§2.8.17 a list as long as the ring is taken, an endless one is a fault', async (t) => {
  const next = { addr: BUFFER, len: 1, flags: NEXT };
  const seven = Array.from({ length: 7 }, () => next);
  using whole = withList([...seven, { addr: BUFFER, len: 1 }]);
  t.equal(whole.pop(), q.POP_CHAIN);
  t.equal(whole.chain.slots, 8);
  using endless = withList([...seven, next]);
  t.equal(endless.pop(), q.FAULT_NOT_AVAILABLE);
});

t.test('§2.8.17 a list that runs into buffers in flight is a fault', async (t) => {
  using f = withList([{ addr: BUFFER, len: 1 }]);
  f.take();
  for (let i = 1; i < 8; i++) f.descriptor(i, { addr: BUFFER, len: 1, flags: NEXT | LAP_1 });
  f.descriptor(0, { addr: BUFFER, len: 1, flags: LAP_0 });
  t.equal(f.pop(), q.FAULT_INDEX_JUMP);
});

t.test('§2.7.5.2 a list longer than 2^32 bytes is a fault', async (t) => {
  const parts = Array.from({ length: 4 }, () => ({ addr: 0, len: GiB, flags: NEXT }));
  using f = withList([...parts, { addr: 0, len: 1 }], [], 2 * GiB);
  t.equal(f.pop(), q.FAULT_LENGTH);
});

t.test('§2.8.19 INDIRECT without VIRTIO_F_INDIRECT_DESC is a fault', async (t) => {
  using f = withList([{ addr: BUFFER, len: 16, flags: INDIRECT }], []);
  t.equal(f.pop(), q.FAULT_INDIRECT);
});

t.test('§2.8.7 in a table all flags but WRITE, and ids, are ignored', async (t) => {
  using f = withList([]);
  const entries = [
    { addr: BUFFER, len: 1, flags: INDIRECT | LAP_0, nextOrId: 9 },
    { addr: BUFFER, len: 2, flags: NEXT | WRITE, nextOrId: 9 },
    { addr: BUFFER, len: 3, flags: WRITE | LAP_1, nextOrId: 9 },
  ];
  t.equal(popTable(f, entries, 42), q.POP_CHAIN);
  const { id, slots, readableLength, writableLength } = f.chain;
  t.strictSame([id, slots, readableLength, writableLength], [42, 1, 1, 5]);
});

t.test('§2.8.7 WRITE next to INDIRECT is ignored', async (t) => {
  using f = withList([]);
  const addr = f.table([{ addr: BUFFER, len: 1 }]);
  f.descriptor(0, { addr, len: 16, flags: INDIRECT | WRITE | LAP_1 });
  t.equal(f.pop(), q.POP_CHAIN);
  t.equal(f.chain.readable, 1);
});

t.test('§2.8.18 tables longer than the queue are taken up to 1024 segments', async (t) => {
  const entries = (count: number) =>
    Array.from({ length: count }, () => ({ addr: BUFFER, len: 1 }));
  using most = withList([]);
  t.equal(popTable(most, entries(1024)), q.POP_CHAIN);
  using more = withList([]);
  t.equal(popTable(more, entries(1025)), q.FAULT_CHAIN_LOOP);
});

t.test('§2.8.1 used descriptors show the wrap counter twice', async (t) => {
  using f = new QueueFixture([PACKED], { size: 2 });
  const seen: number[] = [];
  for (let i = 0; i < 6; i++) {
    f.driver.add({ readable: [new Uint8Array(1)] });
    f.serve();
    seen.push(flagsAt(f, i % 2));
    t.equal(f.driver.completed().length, 1);
  }
  const used = LAP_0 | LAP_1;
  t.strictSame(seen, [used, used, 0, 0, used, used]);
});

t.test('§2.8.3 WRITE in a used descriptor shows whether anything was written', async (t) => {
  using f = new QueueFixture([PACKED]);
  f.driver.add({ writable: [9] });
  f.driver.add({ writable: [9] });
  for (const written of [0, 5]) {
    const { id, slots } = f.take();
    f.device.push(id, slots, written);
  }
  f.device.publish();
  t.strictSame([flagsAt(f, 0) & WRITE, flagsAt(f, 1) & WRITE], [0, WRITE]);
  t.equal(f.driver.descriptorArea.getUint32(16 + 8, true), 5);
});

t.test('§2.8.6 the next used descriptor comes as many slots later as the list had', async (t) => {
  using f = new QueueFixture([PACKED]);
  f.driver.add({ readable: [new Uint8Array(1), new Uint8Array(1)], writable: [1] });
  f.driver.add({ writable: [2] });
  t.equal(f.serve().count, 2);
  t.strictSame(
    [flagsAt(f, 0) & LAP_0, flagsAt(f, 1) & LAP_0, flagsAt(f, 3) & LAP_0],
    [LAP_0, 0, LAP_0],
  );
  t.strictSame(f.device.state(), { nextAvail: 0x8004, nextUsed: 0x8004 });
});

t.test('§2.8.22 a batch is not visible before publish', async (t) => {
  using f = new QueueFixture([PACKED]);
  for (let i = 0; i < 3; i++) f.driver.add({ writable: [i + 1] });
  const taken = [f.take(), f.take(), f.take()];
  for (const { id, slots, writable } of taken.toReversed()) f.device.push(id, slots, writable);
  t.strictSame(f.driver.completed(), []);
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

t.test('§2.8 queues whose size is no power of two', async (t) => {
  for (const features of [[], [VIRTIO_F_EVENT_IDX]]) {
    using f = new QueueFixture([PACKED, ...features], { size: 7 });
    let interrupts = 0;
    for (let i = 0; i < 100; i++) {
      f.driver.add({ readable: [new Uint8Array(1)], writable: [1, 1] });
      t.equal(f.driver.kick(), true);
      if (f.serve().interrupt) interrupts++;
      t.equal(f.device.enableKicks(), false);
      t.equal(f.driver.completed().length, 1);
      if (i % 10 === 0) f.handOver();
    }
    t.equal(interrupts, 100);
  }
});

t.test('§2.8.8 one used descriptor stands for a batch', async (t) => {
  using f = new QueueFixture([PACKED, VIRTIO_F_IN_ORDER]);
  for (let i = 0; i < 3; i++) f.driver.add({ readable: [new Uint8Array(1)], writable: [i + 1] });
  t.equal(f.serve().count, 3);
  t.equal(f.driver.descriptorArea.getUint16(12, true), 2, 'id of the last buffer');
  t.equal(flagsAt(f, 2) & LAP_0, 0, 'the second buffer is untouched');
  t.strictSame(
    f.driver.completed().map(({ token, written }) => [token, written]),
    [
      [0, 1],
      [1, 2],
      [2, 3],
    ],
  );
  t.strictSame(f.device.state(), { nextAvail: 0x8006, nextUsed: 0x8006 });
});

t.test('§2.8.8 a buffer that was not written completely is never skipped', async (t) => {
  using f = new QueueFixture([PACKED, VIRTIO_F_IN_ORDER]);
  for (let i = 0; i < 3; i++) f.driver.add({ writable: [10] });
  const taken = [f.take(), f.take(), f.take()];
  for (const [i, written] of [
    [2, 10],
    [1, 4],
    [0, 10],
  ] as const) {
    t.equal(f.device.publish(), false, 'held back');
    const chain = taken[i];
    if (chain !== undefined) f.device.push(chain.id, chain.slots, written);
  }
  f.device.publish();
  t.strictSame(
    f.driver.completed().map(({ written }) => written),
    [10, 4, 10],
  );
});

t.test('undoPop gives lists back over the end of the ring, latest first', async (t) => {
  for (const features of [[], [VIRTIO_F_IN_ORDER]]) {
    using f = new QueueFixture([PACKED, ...features], { size: 5 });
    const add = (...writable: number[]) => f.driver.add({ writable });
    add(1, 1);
    f.serve();
    f.driver.completed();
    add(2, 2);
    add(3, 3);
    const chains = [f.take(), f.take()];
    t.strictSame(f.device.state(), { nextAvail: 0x0001, nextUsed: 0x8002 });
    f.device.undoPop(f.chain);
    f.device.undoPop(f.chain);
    t.strictSame(f.device.state(), { nextAvail: 0x8002, nextUsed: 0x8002 });
    t.strictSame([f.take(), f.take()], chains);
    for (const { id, slots, writable } of chains) f.device.push(id, slots, writable);
    f.device.publish();
    t.strictSame(
      f.driver.completed().map(({ written }) => written),
      [4, 6],
    );
  }
});

t.test('VHOST_SET_VRING_BASE: bit 15 of both positions is the wrap counter', async (t) => {
  using f = new QueueFixture([PACKED], { size: 2 });
  t.strictSame(f.device.state(), { nextAvail: 0x8000, nextUsed: 0x8000 });
  f.driver.add({ writable: [1] });
  f.driver.add({ writable: [1] });
  f.serve();
  t.strictSame(f.device.state(), { nextAvail: 0, nextUsed: 0 });
  f.driver.completed();
  f.handOver();
  f.driver.add({ writable: [1] });
  t.equal(f.serve().count, 1);
  t.strictSame(f.device.state(), { nextAvail: 1, nextUsed: 1 });
});
