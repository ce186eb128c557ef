/** Queues in the trace: each record in its place, every loss counted. */

import t from 'tap';
import {
  featureSet,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_PACKED,
} from '../../../../src/abi/virtio-ring.ts';
import { Ram } from '../../../../src/memory/ram.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { createDriverQueue } from '../../../../src/testing/create-driver-queue.ts';
import { GuestHeap } from '../../../../src/testing/guest-heap.ts';
import { ActiveQueue } from '../../../../src/virtio/active-queue.ts';
import type { HandlerContext, QueueHandler } from '../../../../src/virtio/device.ts';
import * as record from '../../../../src/virtio/observe/trace/trace-record.ts';
import {
  allocateTraceRing,
  TraceReader,
  type TraceRecord,
  TraceWriter,
} from '../../../../src/virtio/observe/trace/trace-ring.ts';
import { TracingHandler } from '../../../../src/virtio/observe/trace/tracing-handler.ts';
import { createVirtqueue } from '../../../../src/virtio/queue/create-virtqueue.ts';
import { DescriptorChain } from '../../../../src/virtio/queue/descriptor-chain.ts';
import { POP_CHAIN } from '../../../../src/virtio/queue/virtqueue.ts';

function drain(ring: SharedArrayBuffer): TraceRecord[] {
  const records: TraceRecord[] = [];
  new TraceReader(ring).drain(Number.POSITIVE_INFINITY, (one) => records.push(one));
  return records;
}

/** Uses what it pops, four bytes written. */
class EchoHandler implements QueueHandler {
  #context: HandlerContext | undefined;
  start(context: HandlerContext): void {
    this.#context = context;
  }
  kick(index: number): void {
    const queue = this.#context?.queues[index];
    if (queue === undefined || this.#context === undefined) return;
    const chain = new DescriptorChain(this.#context.memory);
    queue.virtqueue.disableKicks();
    do {
      while (queue.virtqueue.pop(chain) === POP_CHAIN) {
        queue.virtqueue.push(chain.id, chain.slots, 4);
      }
      queue.publish();
    } while (queue.virtqueue.enableKicks());
  }
  ready(): void {}
  stop(): void {}
}

for (const [name, features] of [
  ['split', featureSet(VIRTIO_F_EVENT_IDX)],
  ['packed, in order', featureSet(VIRTIO_F_RING_PACKED, VIRTIO_F_IN_ORDER)],
] as const) {
  t.test(`a request on a ${name} queue`, (t) => {
    using ram = new Ram(8 * MiB);
    const heap = new GuestHeap(ram.memory, MiB, 8 * MiB);
    const driver = createDriverQueue(heap, { index: 3, size: 8, features });
    const virtqueue = createVirtqueue(ram.memory, driver.config, features);
    const ring = allocateTraceRing(64);
    const handler = new TracingHandler(new EchoHandler(), ring, 7);
    let interrupts = 0;
    handler.start({
      memory: ram.memory,
      features,
      queues: [
        undefined,
        undefined,
        undefined,
        new ActiveQueue(virtqueue, {
          memory: ram.memory,
          interrupt: () => interrupts++,
          kickAgain: () => undefined,
          broken: (reason) => t.fail(reason),
        }),
      ],
      reactor: { watch: () => undefined },
      broken: (reason) => t.fail(reason),
      log: (text) => t.fail(text),
      post: () => undefined,
    });
    driver.add({ readable: [new Uint8Array(16)], writable: [100], indirect: false });
    t.equal(driver.kick(), true);
    handler.kick(3);
    handler.stop();
    t.equal(driver.completed().length, 1);
    t.equal(interrupts, 1);
    const records = drain(ring);
    const whats = records.map(({ what }) => what);
    t.same(whats, [
      record.SERVED,
      record.KICK,
      record.KICKS_OFF,
      record.POP,
      record.SEGMENT,
      record.SEGMENT,
      record.PUSH,
      record.PUBLISH,
      record.INTERRUPT,
      record.KICKS_ON,
      record.KICK_END,
      record.STOPPED,
    ]);
    const of = (what: number): TraceRecord[] => records.filter((one) => one.what === what);
    t.match(of(record.POP), [{ whom: record.whomOf(7, 3), a: 0, b: 2, x: 16, y: 100 }]);
    t.match(of(record.SEGMENT), [
      { a: 0, b: 0, y: 16 },
      { a: 1, b: 1, y: 100 },
    ]);
    for (const { x } of of(record.SEGMENT)) t.ok(x >= MiB && x < 8 * MiB, 'an address of the heap');
    t.match(of(record.PUSH), [{ a: 0, x: 4 }]);
    t.match(of(record.PUBLISH), [{ a: 1, b: 1 }]);
    const times = records.map(({ time }) => time);
    t.same(
      times,
      [...times].sort((a, b) => a - b),
      'time does not go back',
    );
    t.end();
  });
}

t.test('a full ring drops, counts, and continues once it is read', (t) => {
  const ring = allocateTraceRing(4);
  const writer = new TraceWriter(ring);
  const reader = new TraceReader(ring);
  const seen: number[] = [];
  const take = ({ a }: TraceRecord): void => void seen.push(a);
  for (let i = 0; i < 7; i++) writer.write(record.KICK, 0, i);
  reader.drain(Number.POSITIVE_INFINITY, take);
  t.same(seen, [0, 1, 2, 3]);
  t.equal(reader.dropped, 3);
  writer.write(record.KICK, 0, 7);
  new TraceWriter(ring).write(record.KICK, 0, 8);
  reader.drain(Number.POSITIVE_INFINITY, take);
  t.same(seen, [0, 1, 2, 3, 7, 8], 'another writer continues where the one before left off');
  t.end();
});

t.test('records younger than the limit are left', (t) => {
  const ring = allocateTraceRing(4);
  const writer = new TraceWriter(ring);
  const reader = new TraceReader(ring);
  writer.write(record.KICK, 0, 1);
  const limit = writer.now();
  while (writer.now() <= limit);
  writer.write(record.KICK, 0, 2);
  const seen: number[] = [];
  reader.drain(limit, ({ a }) => seen.push(a));
  t.same(seen, [1]);
  reader.drain(writer.now(), ({ a }) => seen.push(a));
  t.same(seen, [1, 2]);
  t.end();
});
