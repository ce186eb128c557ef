import t from 'tap';
import {
  VIRTIO_F_RING_PACKED as PACKED,
  RING_EVENT_FLAGS_DESC,
  VIRTIO_F_EVENT_IDX,
} from '../../../../src/abi/virtio-ring.ts';
import { QueueFixture } from '../../../support/rigs/virtqueue.ts';

t.test('§2.8.10 event flags decide on interrupts', async (t) => {
  using f = new QueueFixture([PACKED]);
  const serve = () => {
    f.driver.add({ writable: [1] });
    const { interrupt } = f.serve();
    f.driver.completed();
    return interrupt;
  };
  t.equal(serve(), true);
  f.driver.disableInterrupts();
  t.equal(serve(), false);
  f.driver.enableInterrupts();
  t.equal(serve(), true);
  f.driver.driverArea.setUint16(2, RING_EVENT_FLAGS_DESC, true);
  t.equal(serve(), true, 'not negotiated: rather one too many');
  t.equal(f.device.publish(), false, 'nothing new');
});

t.test('§2.8.10 an event offset decides on interrupts with VIRTIO_F_EVENT_IDX', async (t) => {
  using f = new QueueFixture([PACKED, VIRTIO_F_EVENT_IDX], { size: 4 });
  const event = (place: number, wrap: number) => {
    f.driver.driverArea.setUint16(0, place | (wrap << 15), true);
    f.driver.driverArea.setUint16(2, RING_EVENT_FLAGS_DESC, true);
  };
  const serve = (count: number) => {
    for (let i = 0; i < count; i++) f.driver.add({ writable: [1] });
    return f.serve().interrupt;
  };
  event(2, 1);
  t.strictSame([serve(1), serve(1), serve(1), serve(1)], [false, false, true, false]);
  f.driver.completed();
  event(1, 0);
  t.strictSame([serve(1), serve(1), serve(1)], [false, true, false]);
  f.driver.completed();
  event(0, 1);
  t.equal(serve(3), true, 'a batch that passes the offset, over the end of the ring');
  f.driver.completed();
  event(3, 0);
  t.equal(serve(1), false, 'the wrap counter counts');
});

t.test('§2.8.10 the device area asks for kicks', async (t) => {
  using f = new QueueFixture([PACKED]);
  const kick = () => {
    f.driver.add({ writable: [1] });
    return f.driver.kick();
  };
  t.equal(kick(), true);
  f.device.disableKicks();
  t.equal(kick(), false);
  t.equal(f.device.enableKicks(), true, 'buffers came meanwhile');
  f.serve();
  t.equal(f.device.enableKicks(), false);
  t.equal(kick(), true);
});

t.test('§2.8.10 with VIRTIO_F_EVENT_IDX it asks for the next buffer only', async (t) => {
  using f = new QueueFixture([PACKED, VIRTIO_F_EVENT_IDX], { size: 4 });
  const kick = () => {
    f.driver.add({ writable: [1] });
    return f.driver.kick();
  };
  t.strictSame([kick(), kick(), kick()], [true, false, false]);
  f.serve();
  f.driver.completed();
  t.equal(f.device.enableKicks(), false);
  t.strictSame(
    [f.driver.deviceArea.getUint16(0, true), f.driver.deviceArea.getUint16(2, true)],
    [0x8003, RING_EVENT_FLAGS_DESC],
  );
  t.strictSame([kick(), kick()], [true, false]);
});
