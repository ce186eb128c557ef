/** What the kernel gets of rings and memory, in the layout of its header. */
import t from 'tap';
import * as ring from '../../../src/abi/virtio-ring.ts';
import { featureSet } from '../../../src/abi/virtio-ring.ts';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { GiB, HIGH_RAM_BASE, LOW_RAM_LIMIT, MiB } from '../../../src/memory/ram-layout.ts';
import { VhostDevice } from '../../../src/vhost/vhost-device.ts';
import type { QueueConfig } from '../../../src/virtio/queue/virtqueue.ts';
import { FakeVhost } from '../../support/fakes/vhost.ts';

const SPLIT = featureSet(ring.VIRTIO_F_VERSION_1);
const PACKED = featureSet(ring.VIRTIO_F_VERSION_1, ring.VIRTIO_F_RING_PACKED);
const config: QueueConfig = {
  index: 5,
  size: 16,
  descriptorArea: 0x1000,
  driverArea: 0x2000,
  deviceArea: 0x3000,
  kickFd: 100,
  callFd: 101,
};

t.test('a ring is set up with host addresses, and returned with its position', (t) => {
  using ram = new Ram(MiB);
  const kernel = new FakeVhost(SPLIT);
  using vhost = kernel.open();
  t.same(kernel.take(), ['VHOST_SET_OWNER', 'VHOST_GET_FEATURES']);
  t.equal(vhost.features, SPLIT);
  vhost.configure(ram.memory, SPLIT);
  t.equal(kernel.acked, SPLIT);
  t.same(kernel.regions, [{ gpa: 0, size: MiB, address: ram.memory.address }]);
  vhost.setUpRing(1, { ...config, state: { nextAvail: 7, nextUsed: 7 } }, SPLIT, 102);
  const { address } = ram.memory;
  t.same(kernel.addresses.get(1), {
    desc: address + 0x1000,
    avail: address + 0x2000,
    used: address + 0x3000,
  });
  t.equal(kernel.bases.get(1), 7);
  t.same(Object.fromEntries(kernel.files), {
    'VHOST_SET_VRING_ERR 1': 102,
    'VHOST_SET_VRING_CALL 1': 101,
    'VHOST_SET_VRING_KICK 1': 100,
  });
  kernel.bases.set(1, 0xfffe);
  ram.memory.writeU16(0x3002, 0xfffd);
  t.same(vhost.takeBack(1), [5, { nextAvail: 0xfffe, nextUsed: 0xfffd }], 'by the used index');
  t.same([...kernel.files.values()], [-1, -1, -1]);
  t.equal(vhost.takeBack(1), undefined, 'once');
  t.end();
});

t.test('a queue without a vector has no call', (t) => {
  using ram = new Ram(MiB);
  const kernel = new FakeVhost(SPLIT);
  using vhost = kernel.open();
  vhost.configure(ram.memory, SPLIT);
  vhost.setUpRing(0, { ...config, callFd: -1 }, SPLIT, 102);
  t.equal(kernel.files.get('VHOST_SET_VRING_CALL 0'), -1);
  t.end();
});

t.test('virtio 1.3 §2.8.1 a packed ring carries both places, with their wrap counters', (t) => {
  using ram = new Ram(MiB);
  const kernel = new FakeVhost(PACKED);
  using vhost = kernel.open();
  vhost.configure(ram.memory, PACKED);
  vhost.setUpRing(0, config, PACKED, 102);
  t.equal(kernel.bases.get(0), 0x8000_8000);
  t.same(vhost.takeBack(0), [5, { nextAvail: 0x8000, nextUsed: 0x8000 }]);
  vhost.setUpRing(0, { ...config, state: { nextAvail: 3, nextUsed: 0x8005 } }, PACKED, 102);
  t.equal(kernel.bases.get(0), 0x8005_0003);
  t.same(vhost.takeBack(0), [5, { nextAvail: 3, nextUsed: 0x8005 }]);
  t.end();
});

t.test('RAM on both sides of the hole is two regions', (t) => {
  using small = new Ram(MiB);
  const kernel = new FakeVhost(SPLIT);
  using vhost = kernel.open();
  const { regions } = new GuestMemory({ ...small.memory.share, size: 0 });
  t.equal(regions.length, 1);
  const memory = Object.assign(Object.create(small.memory), {
    address: 0x7000_0000_0000,
    regions: [
      { gpa: 0, size: LOW_RAM_LIMIT, offset: 0 },
      { gpa: HIGH_RAM_BASE, size: 2 * GiB, offset: LOW_RAM_LIMIT },
    ],
  }) as GuestMemory;
  vhost.configure(memory, SPLIT);
  t.same(kernel.regions, [
    { gpa: 0, size: 3 * GiB, address: 0x7000_0000_0000 },
    { gpa: 4 * GiB, size: 2 * GiB, address: 0x7000_c000_0000 },
  ]);
  t.end();
});

t.test('rings outside of RAM never reach the kernel', (t) => {
  using ram = new Ram(MiB);
  const kernel = new FakeVhost(SPLIT);
  using vhost = kernel.open();
  vhost.configure(ram.memory, SPLIT);
  kernel.take();
  for (const bad of [
    { descriptorArea: MiB - 16 },
    { driverArea: 2 ** 40 },
    { deviceArea: 0x3002 },
    { size: 12 },
    { size: 0 },
  ]) {
    const attempt = (): void => vhost.setUpRing(0, { ...config, ...bad }, SPLIT, 102);
    t.throws(attempt, { name: 'PeerError' }, JSON.stringify(bad));
  }
  t.same(kernel.take(), []);
  t.end();
});

t.test('a host without it is reported in one line', (t) => {
  t.throws(() => VhostDevice.open('/dev/no-such-vhost', 'vhost_none'), {
    name: 'UsageError',
    message:
      /no \/dev\/no-such-vhost; load its module with "modprobe vhost_none", or use vhost=off$/,
  });
  const kernel = new FakeVhost(SPLIT);
  kernel.fails = 'VHOST_SET_OWNER';
  t.throws(() => kernel.open(), { name: 'HostError', message: /VHOST_SET_OWNER.*EINVAL/ });
  t.end();
});
