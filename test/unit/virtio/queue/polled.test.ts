/** Polled queues: the driver's kicks are suppressed, and neither end misses anything. */
import t from 'tap';
import {
  featureSet,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_RING_PACKED,
} from '../../../../src/abi/virtio-ring.ts';
import { Ram } from '../../../../src/memory/ram.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { createDriverQueue } from '../../../../src/testing/create-driver-queue.ts';
import { GuestHeap } from '../../../../src/testing/guest-heap.ts';
import { createVirtqueue } from '../../../../src/virtio/queue/create-virtqueue.ts';
import { DescriptorChain } from '../../../../src/virtio/queue/descriptor-chain.ts';
import { POP_CHAIN, POP_EMPTY } from '../../../../src/virtio/queue/virtqueue.ts';

for (const [name, ...bits] of [
  ['split'],
  ['split, event index', VIRTIO_F_EVENT_IDX],
  ['packed', VIRTIO_F_RING_PACKED],
  ['packed, event index', VIRTIO_F_RING_PACKED, VIRTIO_F_EVENT_IDX],
] as const) {
  t.test(name, async (t) => {
    using ram = new Ram(MiB);
    const features = featureSet(...bits);
    const driver = createDriverQueue(new GuestHeap(ram.memory, 4096, MiB), { size: 8, features });
    const queue = createVirtqueue(ram.memory, driver.config, features);
    const chain = new DescriptorChain(ram.memory);
    const add = (): boolean => {
      driver.add({ writable: [16] });
      return driver.kick();
    };
    const take = (): void => {
      t.equal(queue.pop(chain), POP_CHAIN);
      queue.push(chain.id, chain.slots, 0);
      queue.publish();
      driver.completed();
    };
    t.equal(queue.suppressKicks?.(true), false);
    let seen = queue.peekAvailable?.();
    for (let i = 0; i < 40; i++) {
      t.equal(add(), false, 'the driver keeps quiet, whatever the device asks for');
      t.not(queue.peekAvailable?.(), seen, 'the number shows it');
      seen = queue.peekAvailable?.();
      t.equal(queue.peekAvailable?.(), seen);
      take();
      t.equal(queue.pop(chain), POP_EMPTY);
      t.equal(queue.enableKicks(), false);
      seen = queue.peekAvailable?.();
    }
    add();
    t.equal(queue.suppressKicks?.(false), true, 'what came last brought no kick');
    take();
    t.equal(queue.enableKicks(), false);
    t.equal(add(), true, 'and now the driver kicks again');
    take();
    queue.disableKicks();
    queue.suppressKicks?.(true);
    add();
    t.equal(queue.suppressKicks?.(false), false, 'a device that wanted no kicks is not changed');
  });
}
