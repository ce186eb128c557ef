/** The driver's side of a shadow ring, and where its buffers lie. */
import fc from 'fast-check';
import t from 'tap';
import { featureSet, VIRTIO_F_VERSION_1 } from '../../../src/abi/virtio-ring.ts';
import { IndexList } from '../../../src/datapath/shadow/index-list.ts';
import { ShadowBuffers } from '../../../src/datapath/shadow/shadow-buffers.ts';
import {
  LARGE_SIZE,
  SMALL_SIZE,
  shadowLayout,
} from '../../../src/datapath/shadow/shadow-layout.ts';
import { shadowSize } from '../../../src/datapath/shadow/shadow-queue.ts';
import { ShadowRing, TAKE_FAULT, TAKE_NONE } from '../../../src/datapath/shadow/shadow-ring.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { createVirtqueue } from '../../../src/virtio/queue/create-virtqueue.ts';
import { DescriptorChain } from '../../../src/virtio/queue/descriptor-chain.ts';
import { POP_CHAIN, type Virtqueue } from '../../../src/virtio/queue/virtqueue.ts';

const SIZE = 8;

/** What an array holds that is changed in the same way. */
const contents = (list: IndexList): number[] => {
  const all: number[] = [];
  for (let at = list.first; at >= 0; at = list.after(at)) all.push(at);
  return all;
};

t.test('a list keeps the order in which numbers were added', async (t) => {
  fc.assert(
    fc.property(fc.array(fc.nat(SIZE - 1)), (numbers) => {
      const list = new IndexList(SIZE);
      let model: number[] = [];
      for (const number of numbers) {
        if (model.includes(number)) {
          list.remove(number);
          model = model.filter((one) => one !== number);
        } else {
          list.add(number);
          model.push(number);
        }
        if (list.last !== (model.at(-1) ?? -1)) return false;
        if (contents(list).join() !== model.join()) return false;
      }
      return true;
    }),
  );
  t.pass();
});

t.test('nothing of a layout overlaps', async (t) => {
  const { size, queues } = shadowLayout([256, 2, 64]);
  const ranges = queues.flatMap((one) => [
    [one.descriptorArea, 16 * one.size],
    [one.driverArea, 6 + 2 * one.size],
    [one.deviceArea, 6 + 8 * one.size],
    [one.small, SMALL_SIZE * one.size],
    [one.large, LARGE_SIZE],
  ]) as [number, number][];
  const sorted = ranges.toSorted(([a], [b]) => a - b);
  for (const [i, [at, length]] of sorted.entries()) {
    t.equal(at % 4096, 0);
    t.ok(at + length <= (sorted[i + 1]?.[0] ?? size));
  }
});

t.test('buffers in flight do not overlap, whatever comes and goes', async (t) => {
  const [places] = shadowLayout([SIZE]).queues;
  if (places === undefined) throw new Error('no queue');
  const bytes = fc.oneof(
    fc.integer({ min: 1, max: 2 * SMALL_SIZE }),
    fc.integer({ min: 1, max: LARGE_SIZE }),
  );
  let refused = 0;
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(SIZE - 1), bytes), { size: 'large' }), (steps) => {
      const buffers = new ShadowBuffers(places);
      const live = new Map<number, readonly [number, number]>();
      for (const [head, length] of steps) {
        if (live.has(head)) {
          buffers.release(head);
          live.delete(head);
          continue;
        }
        const at = buffers.allocate(head, length);
        if (at < 0) {
          refused++;
          if (live.size === 0) return false;
          continue;
        }
        const inSmall = at >= places.small && at + length <= places.small + SIZE * SMALL_SIZE;
        const inLarge = at >= places.large && at + length <= places.large + LARGE_SIZE;
        if (!inSmall && !inLarge) return false;
        for (const [other, size] of live.values()) {
          if (at < other + size && other < at + length) return false;
        }
        live.set(head, [at, length]);
      }
      return true;
    }),
  );
  t.ok(refused > 0, 'some had to wait');
});

interface Rig {
  readonly ring: ShadowRing;
  /** Its device. */
  readonly queue: Virtqueue;
  /** The used ring. */
  readonly used: DataView;
  pop(): DescriptorChain | undefined;
}

function withRing(use: (rig: Rig) => void): void {
  const { size, queues } = shadowLayout([SIZE]);
  const [places] = queues;
  if (places === undefined) throw new Error('no queue');
  using ram = new Ram(size, 'memfd');
  const ring = new ShadowRing(ram.memory.address, places, SIZE);
  const config = { ...places, index: 0, kickFd: -1, callFd: -1 };
  const queue = createVirtqueue(ram.memory, config, featureSet(VIRTIO_F_VERSION_1));
  const { buffer, byteOffset } = ram.memory.bytes(places.deviceArea, 6 + 8 * SIZE);
  const used = new DataView(buffer, byteOffset);
  const pop = (): DescriptorChain | undefined => {
    const chain = new DescriptorChain(ram.memory);
    return queue.pop(chain) === POP_CHAIN ? chain : undefined;
  };
  use({ ring, queue, used, pop });
}

t.test('chains of a ring, lap after lap', async (t) => {
  withRing(({ ring, queue, pop }) => {
    t.equal(ring.take(), TAKE_NONE);
    t.equal(ring.publish(), false, 'nothing was offered');
    for (let lap = 0; lap < 3 * SIZE; lap++) {
      const { head } = ring;
      t.equal(ring.offer(4096, 16, 8192, 100 + lap), head);
      t.equal(pop(), undefined, 'not published');
      t.equal(ring.publish(), true);
      const chain = pop();
      t.match(chain, { id: head, readableLength: 16, writableLength: 100 + lap, count: 2 });
      queue.push(head, 1, lap);
      t.equal(ring.take(), TAKE_NONE, 'not published');
      queue.publish();
      t.equal(ring.take(), head);
      t.equal(ring.written, lap);
      t.equal(ring.free, SIZE - 2);
      ring.release(head);
      t.equal(ring.free, SIZE);
    }
  });
});

t.test('chains of one part, out of order, and a device that wants no kicks', async (t) => {
  withRing(({ ring, queue, pop }) => {
    const heads = Array.from({ length: SIZE }, (_, i) =>
      i % 2 === 0 ? ring.offer(4096, 8, 0, 0) : ring.offer(0, 0, 4096, 8),
    );
    t.equal(ring.free, 0);
    queue.disableKicks();
    t.equal(ring.publish(), false);
    for (const [i, head] of heads.entries()) {
      const sizes = i % 2 === 0 ? [8, 0] : [0, 8];
      const chain = pop();
      t.same([chain?.id, chain?.readableLength, chain?.writableLength], [head, ...sizes]);
    }
    for (const head of heads.toReversed()) queue.push(head, 1, 0);
    queue.publish();
    for (const head of heads.toReversed()) {
      t.equal(ring.take(), head);
      ring.release(head);
    }
    t.same([ring.take(), ring.free], [TAKE_NONE, SIZE]);
  });
});

t.test('a device that returns what it does not have', async (t) => {
  for (const [head, why] of [
    [SIZE, 'outside of the table'],
    [0xffff_ffff, 'far outside'],
    [3, 'not in flight'],
  ] as const) {
    withRing(({ ring, used }) => {
      t.not(ring.offer(4096, 8, 0, 0), head);
      ring.publish();
      used.setUint32(4, head, true);
      used.setUint16(2, 1, true);
      t.equal(ring.take(), TAKE_FAULT, why);
    });
  }
  withRing(({ ring, queue, used, pop }) => {
    ring.offer(4096, 8, 0, 0);
    ring.publish();
    const id = pop()?.id ?? -1;
    queue.push(id, 1, 0);
    queue.publish();
    ring.release(ring.take());
    used.setUint32(12, id, true);
    used.setUint16(2, 2, true);
    t.equal(ring.take(), TAKE_FAULT, 'twice');
  });
});

t.test('the shadow of a packed queue has a power of two of descriptors', async (t) => {
  t.same([1, 2, 3, 100, 256, 32768].map(shadowSize), [1, 2, 2, 64, 256, 32768]);
});
