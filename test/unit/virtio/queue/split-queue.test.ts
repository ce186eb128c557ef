import t from 'tap';
import { Ram } from '../../../../src/memory/ram.ts';
import { MiB } from '../../../../src/memory/ram-layout.ts';
import { createDriverQueue } from '../../../../src/testing/driver-queue.ts';
import { GuestHeap } from '../../../../src/testing/guest-heap.ts';
import { createVirtqueue } from '../../../../src/virtio/queue/create-virtqueue.ts';
import { DescriptorChain } from '../../../../src/virtio/queue/descriptor-chain.ts';
import { POP_CHAIN, POP_EMPTY } from '../../../../src/virtio/queue/virtqueue.ts';

t.test('a buffer makes the round trip', async (t) => {
  using ram = new Ram(16 * MiB);
  const heap = new GuestHeap(ram.memory, MiB, 16 * MiB);
  const driver = createDriverQueue(heap, { size: 8, features: 0n });
  const queue = createVirtqueue(ram.memory, driver.config, 0n);
  const chain = new DescriptorChain(ram.memory);
  for (let i = 0; i < 100; i++) {
    const token = driver.add({ readable: [Buffer.from('ping')], writable: [2, 2] });
    t.equal(driver.kick(), true);
    t.equal(queue.pop(chain), POP_CHAIN);
    const request = new Uint8Array(4);
    t.equal(chain.read(0, request), 4);
    t.equal(Buffer.from(request).toString(), 'ping');
    t.equal(chain.write(0, Buffer.from('pong')), 4);
    queue.push(chain.id, chain.slots, 4);
    t.equal(queue.publish(), true);
    t.strictSame(driver.completed(), [
      { token, written: 4, data: new Uint8Array(Buffer.from('pong')) },
    ]);
    t.equal(queue.pop(chain), POP_EMPTY);
  }
});
