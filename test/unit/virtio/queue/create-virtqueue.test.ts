import t from 'tap';
import { VIRTIO_F_RING_PACKED } from '../../../../src/abi/virtio-ring.ts';
import { PeerError } from '../../../../src/host/errors.ts';
import { Ram } from '../../../../src/memory/ram.ts';
import { GiB, HIGH_RAM_BASE, MiB } from '../../../../src/memory/ram-layout.ts';
import { createVirtqueue } from '../../../../src/virtio/queue/create-virtqueue.ts';
import type { QueueConfig } from '../../../../src/virtio/queue/virtqueue.ts';
import { QueueFixture } from '../../../support/rigs/virtqueue.ts';

const PACKED = 1n << BigInt(VIRTIO_F_RING_PACKED);
const good: QueueConfig = {
  index: 3,
  size: 8,
  descriptorArea: MiB,
  driverArea: 2 * MiB,
  deviceArea: 3 * MiB,
  kickFd: -1,
  callFd: -1,
};

const refused: readonly (readonly [string, bigint, Partial<QueueConfig>, string])[] = [
  ['§2.7.1 descriptor table off 16 bytes', 0n, { descriptorArea: MiB + 8 }, 'E_QUEUE_ALIGNMENT'],
  ['§2.7.1 available ring off 2 bytes', 0n, { driverArea: MiB + 1 }, 'E_QUEUE_ALIGNMENT'],
  ['§2.7.1 used ring off 4 bytes', 0n, { deviceArea: MiB + 2 }, 'E_QUEUE_ALIGNMENT'],
  ['§2.8.11 ring off 16 bytes', PACKED, { descriptorArea: MiB + 8 }, 'E_QUEUE_ALIGNMENT'],
  ['§2.8.11 driver area off 4 bytes', PACKED, { driverArea: MiB + 2 }, 'E_QUEUE_ALIGNMENT'],
  ['§2.8.11 device area off 4 bytes', PACKED, { deviceArea: MiB + 2 }, 'E_QUEUE_ALIGNMENT'],
  ['§2.6 table past RAM', 0n, { descriptorArea: 16 * MiB - 112 }, 'E_QUEUE_ADDRESS'],
  ['§2.6 available ring past RAM', 0n, { driverArea: 16 * MiB - 20 }, 'E_QUEUE_ADDRESS'],
  ['§2.6 used ring past RAM', 0n, { deviceArea: 16 * MiB - 68 }, 'E_QUEUE_ADDRESS'],
  ['§2.6 ring past RAM', PACKED, { descriptorArea: 16 * MiB - 112 }, 'E_QUEUE_ADDRESS'],
  ['§2.6 event area past RAM', PACKED, { deviceArea: 16 * MiB }, 'E_QUEUE_ADDRESS'],
  ['§2.6 table at the top', 0n, { descriptorArea: 2 ** 64 }, 'E_QUEUE_ADDRESS'],
  ['§2.7 size 0', 0n, { size: 0 }, 'E_QUEUE_SIZE'],
  ['§2.7 size that is no power of two', 0n, { size: 7 }, 'E_QUEUE_SIZE'],
  ['§2.7 size 65536', 0n, { size: 65536 }, 'E_QUEUE_SIZE'],
  ['§2.8 size 32769', PACKED, { size: 32769 }, 'E_QUEUE_SIZE'],
  ['state out of step', 0n, { state: { nextAvail: 9, nextUsed: 0 } }, 'E_QUEUE_STATE'],
  ['state above 16 bits', 0n, { state: { nextAvail: 65536, nextUsed: 0 } }, 'E_QUEUE_STATE'],
  ['place past the ring', PACKED, { state: { nextAvail: 8, nextUsed: 0 } }, 'E_QUEUE_STATE'],
  [
    'used ahead of available',
    PACKED,
    { state: { nextAvail: 0x8001, nextUsed: 0x8002 } },
    'E_QUEUE_STATE',
  ],
];

for (const [name, features, change, code] of refused) {
  t.test(`${name} is refused`, async (t) => {
    using ram = new Ram(16 * MiB);
    const create = () => createVirtqueue(ram.memory, { ...good, ...change }, features);
    t.throws(create, { code, message: /^queue 3: / });
    t.throws(create, PeerError);
  });
}

t.test('areas may touch the end of RAM', async (t) => {
  using ram = new Ram(16 * MiB);
  for (const change of [
    { descriptorArea: 16 * MiB - 128 },
    { driverArea: 16 * MiB - 22 },
    { deviceArea: 16 * MiB - 72 },
  ]) {
    t.equal(createVirtqueue(ram.memory, { ...good, ...change }, 0n).index, 3);
  }
});

const places: readonly (readonly [string, number])[] = [
  ['above 2 GiB', 2 * GiB + MiB],
  ['above 4 GiB', HIGH_RAM_BASE + 2 * GiB],
  ['around a boundary of 1 GiB', GiB - 64],
];
for (const [place, heapStart] of places) {
  for (const features of [[], [VIRTIO_F_RING_PACKED]]) {
    t.test(
      `${features.length === 0 ? 'split' : 'packed'} queue and buffers ${place}`,
      async (t) => {
        const heapEnd = heapStart + 16 * MiB;
        using f = new QueueFixture(features, { ramSize: 6 * GiB, heapStart, heapEnd, size: 64 });
        for (let i = 0; i < 200; i++) {
          f.driver.add({ readable: [Buffer.from(`request ${i}`)], writable: [1, 100] });
          f.take();
          const text = new Uint8Array(f.chain.readableLength);
          f.chain.read(0, text);
          const written = f.chain.write(0, text);
          f.device.push(f.chain.id, f.chain.slots, written);
          f.device.publish();
          const [done] = f.driver.completed();
          t.equal(Buffer.from(done?.data ?? []).toString(), `request ${i}`);
        }
      },
    );
  }
}
