/** Snapshots of rings: what they show, and that nothing a driver writes can break them. */
import fc from 'fast-check';
import t from 'tap';
import {
  featureSet,
  RING_EVENT_FLAGS_DESC,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
} from '../../../../src/abi/virtio-ring.ts';
import { Ram } from '../../../../src/memory/ram.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import {
  type PackedSnapshot,
  type RingSnapshot,
  type SplitSnapshot,
  snapshotRing,
} from '../../../../src/virtio/queue/ring-snapshot.ts';
import type { QueueConfig } from '../../../../src/virtio/queue/virtqueue.ts';
import { QueueFixture } from '../../../support/rigs/virtqueue.ts';

function snapshot(f: QueueFixture): RingSnapshot {
  const ring = snapshotRing(f.ram.memory, f.driver.config, f.features, f.device.state());
  if (typeof ring === 'string') throw new Error(ring);
  return ring;
}

t.test('split: indices, entries, descriptors, and what is in flight', (t) => {
  using f = new QueueFixture([VIRTIO_F_VERSION_1, VIRTIO_F_EVENT_IDX], { size: 4 });
  for (let i = 0; i < 6; i++) {
    f.driver.add({ writable: [1] });
    f.serve();
    f.driver.completed();
  }
  f.device.enableKicks();
  f.driver.add({ readable: [new Uint8Array(7)], writable: [9] });
  f.driver.add({ writable: [3] });
  const { id } = f.take();
  const ring = snapshot(f) as SplitSnapshot;
  t.match(ring, { format: 'split', available: { idx: 8 }, used: { idx: 6 } });
  t.equal(ring.available.entries.length, 4);
  t.equal(ring.available.entries[6 % 4]?.head, id);
  t.equal(ring.inFlight[0], id, 'taken, and not used');
  t.equal(ring.inFlight.length, 2);
  t.equal(ring.descriptors.length, 4);
  const first = ring.descriptors[id];
  t.match(first, { index: id, len: 7, flags: VIRTQ_DESC_F_NEXT });
  t.match(ring.descriptors[first?.next ?? -1], { len: 9, flags: VIRTQ_DESC_F_WRITE });
  t.match(first?.addr, /^0x[0-9a-f]+$/);
  t.equal(ring.used.availEvent, 6, "as of the device's last request for a kick");
  t.end();
});

t.test('split: chains that overtook others are distinguished', (t) => {
  using f = new QueueFixture([VIRTIO_F_VERSION_1], { size: 8 });
  const taken = Array.from({ length: 5 }, () => {
    f.driver.add({ writable: [1] });
    return f.take();
  });
  for (const { id, slots } of [taken[3], taken[1]].flatMap((one) => one ?? [])) {
    f.device.push(id, slots, 1);
  }
  f.device.publish();
  const { inFlight } = snapshot(f) as SplitSnapshot;
  t.same(
    [...inFlight].sort(),
    [taken[0]?.id, taken[2]?.id, taken[4]?.id].sort(),
    'not the last three that became available',
  );
  t.end();
});

t.test("packed: the device's position, and how many wait", (t) => {
  const features = [VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX];
  using f = new QueueFixture(features, { size: 5 });
  for (let i = 0; i < 4; i++) {
    f.driver.add({ writable: [1] });
    f.serve();
    f.driver.completed();
  }
  f.device.enableKicks();
  f.driver.add({ readable: [new Uint8Array(2)], writable: [3] });
  f.driver.add({ writable: [4] });
  t.equal((snapshot(f) as PackedSnapshot).waiting, 3, 'over the end of the ring');
  f.take();
  const ring = snapshot(f) as PackedSnapshot;
  t.equal(ring.waiting, 1);
  t.same(
    ring.descriptors.map(({ len }) => len),
    [3, 4, ...ring.descriptors.slice(2).map(({ len }) => len)],
  );
  t.match(ring.deviceEvent, { offset: 4, wrap: 1, flags: RING_EVENT_FLAGS_DESC });
  const unknown = snapshotRing(f.ram.memory, f.driver.config, f.features, undefined);
  t.notOk('waiting' in (unknown as object), 'unknown, so left out');
  t.end();
});

for (const [format, ...extra] of [
  ['split'],
  ['split, event index', VIRTIO_F_EVENT_IDX],
  ['packed', VIRTIO_F_RING_PACKED],
  ['packed, event index', VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX],
] as const) {
  t.test(`${format}: whether the driver must kick for its next chain`, (t) => {
    using f = new QueueFixture([VIRTIO_F_VERSION_1, ...extra], { size: 4 });
    for (let i = 0; i < 10; i++) {
      f.device.enableKicks();
      t.equal(snapshot(f).kicksSuppressed, false);
      f.device.suppressKicks?.(true);
      t.equal(snapshot(f).kicksSuppressed, true);
      f.device.suppressKicks?.(false);
      t.equal(snapshot(f).kicksSuppressed, false);
      f.driver.add({ writable: [1] });
      t.equal(f.driver.kick(), true);
      f.serve();
      f.driver.completed();
    }
    t.end();
  });
}

t.test('a large queue: what the indices are at', (t) => {
  for (const extra of [[], [VIRTIO_F_RING_PACKED]]) {
    using f = new QueueFixture([VIRTIO_F_VERSION_1, ...extra], { size: 1024 });
    for (let i = 0; i < 700; i++) {
      f.driver.add({ writable: [1] });
      f.serve();
      f.driver.completed();
    }
    f.driver.add({ writable: [5] });
    const ring = snapshot(f);
    t.equal(ring.descriptors.length, 256);
    t.ok(ring.descriptors.some(({ len }) => len === 5));
    if (ring.format === 'packed') continue;
    t.ok(ring.available.entries.some(({ slot }) => slot === 700));
    t.ok(ring.used.entries.some(({ slot }) => slot === 699));
    t.equal(ring.inFlight.length, 1);
  }
  t.end();
});

t.test('areas that cannot be are named, with the clause', (t) => {
  using ram = new Ram(MiB);
  const config = queueAt(8, 3);
  const text = snapshotRing(ram.memory, config, featureSet(VIRTIO_F_VERSION_1), undefined);
  t.match(text, /descriptor table at 0x3 is not aligned .*§2\.7\.1/);
  const outside = { ...config, descriptorArea: 2 ** 63 };
  t.match(snapshotRing(ram.memory, outside, 0n, undefined), /not in guest RAM/);
  t.end();
});

t.test('no content of the areas breaks a snapshot, or makes it grow', (t) => {
  using ram = new Ram(MiB);
  const bytes = ram.memory.bytes(0, MiB);
  const position = fc.integer({ min: 0, max: 0xffff });
  const size = fc.oneof(
    fc.constantFrom(1, 2, 4, 16, 256, 1024, 8192, 32768),
    fc.integer({ min: 0, max: 0xffff }),
  );
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 64, maxLength: 512 }),
      size,
      fc.boolean(),
      fc.option(fc.record({ nextAvail: position, nextUsed: position }), { nil: undefined }),
      (content, queueSize, packed, state) => {
        for (let at = 0; at + content.length <= MiB; at += content.length) bytes.set(content, at);
        const features = featureSet(...(packed ? [VIRTIO_F_RING_PACKED] : []), VIRTIO_F_EVENT_IDX);
        const config = queueAt(queueSize, 0);
        const ring = snapshotRing(ram.memory, config, features, state);
        if (typeof ring === 'string') return ring.length < 200;
        return JSON.stringify(ring).length < 65536;
      },
    ),
    { numRuns: 300 },
  );
  t.end();
});

function queueAt(size: number, at: number): QueueConfig {
  return {
    index: 0,
    size,
    descriptorArea: at,
    driverArea: at,
    deviceArea: at,
    kickFd: -1,
    callFd: -1,
  };
}
