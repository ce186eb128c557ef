/** An observed handler behaves like the one inside. */

import t from 'tap';
import { Ram } from '../../../../src/memory/ram.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { createDriverQueue } from '../../../../src/testing/create-driver-queue.ts';
import { GuestHeap } from '../../../../src/testing/guest-heap.ts';
import { ActiveQueue } from '../../../../src/virtio/active-queue.ts';
import type { HandlerContext, QueueHandler } from '../../../../src/virtio/device.ts';
import type { Breach } from '../../../../src/virtio/observe/observation.ts';
import { observe } from '../../../../src/virtio/observe/observe.ts';
import { allocateTraceRing } from '../../../../src/virtio/observe/trace/trace-ring.ts';
import { createVirtqueue } from '../../../../src/virtio/queue/create-virtqueue.ts';
import { DescriptorChain } from '../../../../src/virtio/queue/descriptor-chain.ts';

/** Notes what it is asked to do. */
class NotingHandler implements QueueHandler {
  readonly asked: string[] = [];
  context: HandlerContext | undefined;
  start(context: HandlerContext): void {
    this.context = context;
    this.asked.push('start');
  }
  kick(queue: number): void {
    this.asked.push(`kick ${queue}`);
  }
  ready(token: number, events: number): void {
    this.asked.push(`ready ${token} ${events}`);
  }
  message(message: unknown): void {
    this.asked.push(`message ${String(message)}`);
  }
  drain(): Promise<void> | undefined {
    this.asked.push('drain');
    return undefined;
  }
  stop(): void {
    this.asked.push('stop');
  }
}

const GROUND = { features: 0n, queues: [], breach: () => undefined };

t.test('no observer: the handler itself', (t) => {
  const inner = new NotingHandler();
  t.equal(observe(inner, undefined, GROUND), inner);
  t.end();
});

t.test('all that is asked arrives', (t) => {
  const breaches: Breach[] = [];
  using ram = new Ram(4 * MiB);
  const heap = new GuestHeap(ram.memory, MiB, 4 * MiB);
  const driver = createDriverQueue(heap, { index: 0, size: 4, features: 0n });
  const virtqueue = createVirtqueue(ram.memory, driver.config, 0n);
  const inner = new NotingHandler();
  const outer = observe(
    inner,
    { device: 0, check: true, trace: allocateTraceRing(64) },
    {
      features: 0n,
      queues: [driver.config],
      breach: (breach) => breaches.push(breach),
    },
  );
  const watched: number[][] = [];
  outer.start({
    memory: ram.memory,
    features: 0n,
    queues: [
      new ActiveQueue(virtqueue, {
        memory: ram.memory,
        interrupt: () => undefined,
        kickAgain: () => inner.kick(9),
        broken: (reason) => t.fail(reason),
      }),
    ],
    reactor: { watch: (fd, events, token) => watched.push([fd, events, token]) },
    broken: (reason) => t.fail(reason),
    log: (text) => t.fail(text),
    post: () => undefined,
  });
  t.equal(watched.length, 1, 'a timer of the check');
  outer.kick(0);
  outer.ready?.(3, 1);
  // A token like the timer's, which has not expired, is the handler's own.
  outer.ready?.(0xffff, 1);
  outer.message?.('text');
  t.equal(outer.drain?.([0]), undefined);
  const queue = inner.context?.queues[0];
  queue?.kickAgain();
  t.not(queue?.virtqueue, virtqueue);
  t.equal(queue?.virtqueue.size, 4);
  t.same(queue?.virtqueue.state(), virtqueue.state());
  driver.add({ writable: [4] });
  const chain = new DescriptorChain(ram.memory);
  queue?.virtqueue.pop(chain);
  queue?.virtqueue.push(chain.id, chain.slots, 5);
  t.match(breaches, [{ side: 'device', rule: 'written-too-much', queue: 0 }]);
  outer.stop();
  t.same(inner.asked, [
    'start',
    'kick 0',
    'ready 3 1',
    'ready 65535 1',
    'message text',
    'drain',
    'kick 9',
    'stop',
  ]);
  t.same(watched[1], [watched[0]?.[0], 0, 0xffff], 'the timer is no longer watched');
  t.end();
});

t.test('a handler without messages and hand-over has none when it is watched', (t) => {
  const plain: QueueHandler = {
    start: () => undefined,
    kick: () => undefined,
    ready: () => undefined,
    stop: () => undefined,
  };
  const outer = observe(plain, { device: 0, check: true }, GROUND);
  t.not(outer, plain);
  t.equal(outer.message, undefined);
  t.equal(outer.drain, undefined);
  t.end();
});
