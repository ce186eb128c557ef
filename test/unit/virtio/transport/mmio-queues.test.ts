/** Queues, notifications and interrupts of virtio over MMIO (virtio 1.3 §4.2.2, §4.2.3). */
import t from 'tap';
import * as mmio from '../../../../src/abi/virtio-mmio.ts';
import {
  featureSet,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { drainEventfd, signalEventfd } from '../../../../src/host/fd.ts';
import { type MmioRigOptions, VirtioMmioRig } from '../../../support/rigs/virtio-mmio.ts';

const ADDRESSES = [
  [mmio.VIRTIO_MMIO_QUEUE_DESC_LOW, mmio.VIRTIO_MMIO_QUEUE_DESC_HIGH],
  [mmio.VIRTIO_MMIO_QUEUE_AVAIL_LOW, mmio.VIRTIO_MMIO_QUEUE_AVAIL_HIGH],
  [mmio.VIRTIO_MMIO_QUEUE_USED_LOW, mmio.VIRTIO_MMIO_QUEUE_USED_HIGH],
] as const;

/** A device whose features are negotiated, queue 0 selected. */
function negotiated(options: MmioRigOptions = {}): VirtioMmioRig {
  const rig = new VirtioMmioRig(options);
  rig.negotiate();
  return rig;
}

/** A running device, whose owner answers. */
function running(queues = 1, options: MmioRigOptions = {}): VirtioMmioRig {
  const rig = new VirtioMmioRig(options);
  rig.initialize(queues);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_SEL, 0);
  rig.answer();
  rig.takeEvents();
  return rig;
}

t.test('virtio 1.3 §4.2.2 QueueSizeMax is that of the selected queue, or 0', async (t) => {
  using rig = negotiated();
  const shown = [0, 1, 2, 3, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff].map((queue) => {
    rig.write(mmio.VIRTIO_MMIO_QUEUE_SEL, queue);
    return rig.read(mmio.VIRTIO_MMIO_QUEUE_NUM_MAX);
  });
  t.same(shown, [64, 128, 256, 0, 0, 0, 0]);
});

t.test('virtio 1.3 §4.2.2 a queue that does not exist has no registers', async (t) => {
  using rig = running(3);
  for (const queue of [3, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
    rig.write(mmio.VIRTIO_MMIO_QUEUE_SEL, queue);
    for (const offset of [...ADDRESSES.flat(), 0x38, 0x44, 0xc0]) {
      rig.write(offset, 1);
      t.equal(rig.read(offset), 0);
      rig.write(offset, 0);
    }
  }
  t.same(rig.takeEvents(), []);
  t.same(rig.port.take(), []);
});

t.test('virtio 1.3 §4.2.2 size and addresses are taken over by QueueReady', async (t) => {
  using rig = negotiated();
  rig.write(mmio.VIRTIO_MMIO_QUEUE_NUM, 16);
  ADDRESSES.forEach(([low, high], i) => {
    rig.write(low, 0xfedc_ba90 + i * 0x10);
    rig.write(high, 0x8000_0000 + i);
  });
  t.equal(rig.device.registers.queueConfig(0, 7, 8), undefined);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 1);
  t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_READY), 1);
  t.match(rig.device.registers.queueConfig(0, 7, 8), {
    index: 0,
    size: 16,
    descriptorArea: 0x8000_0000 * 2 ** 32 + 0xfedc_ba90,
    driverArea: 0x8000_0001 * 2 ** 32 + 0xfedc_baa0,
    deviceArea: 0x8000_0002 * 2 ** 32 + 0xfedc_bab0,
    kickFd: 7,
    callFd: 8,
  });
  t.same(rig.takeEvents(), [], 'DRIVER_OK will report it');
});

t.test('virtio 1.3 §4.2.2.2 a QueueSize above QueueSizeMax, or of no ring, is lost', async (t) => {
  using rig = negotiated();
  for (const size of [0, 3, 65, 128, 0x1_0040, 0xffff_ffff]) {
    rig.write(mmio.VIRTIO_MMIO_QUEUE_NUM, size);
  }
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 1);
  t.equal(rig.device.registers.queueConfig(0, 0, 0)?.size, 64);
});

t.test('virtio 1.3 §2.8 a packed queue has any size up to the largest', async (t) => {
  using rig = negotiated({ features: featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED) });
  rig.write(mmio.VIRTIO_MMIO_QUEUE_NUM, 37);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 1);
  t.equal(rig.device.registers.queueConfig(0, 0, 0)?.size, 37);
});

t.test('virtio 1.3 §3.1.1 a queue is not ready before FEATURES_OK', async (t) => {
  using rig = new VirtioMmioRig();
  rig.enableQueue(0);
  t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_READY), 0);
});

t.test('virtio 1.3 §4.2.2 QueueReady is 1 or 0, nothing else', async (t) => {
  using rig = negotiated();
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 2);
  t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_READY), 0);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 1);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 0xffff_ffff);
  t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_READY), 1);
});

t.test('virtio 1.3 §4.2.2.2 a ready queue does not change under the device', async (t) => {
  using rig = running();
  const before = rig.device.registers.queueConfig(0, 0, 0);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_NUM, 8);
  for (const offset of ADDRESSES.flat()) rig.write(offset, 0x1234_0000);
  t.same(rig.device.registers.queueConfig(0, 0, 0), before);
});

t.test('virtio 1.3 §4.2.2.2 QueueReady 0 completes when the queue is released', async (t) => {
  using rig = running(2);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 0);
  t.same(rig.takeEvents(), ['0: queues changed']);
  t.same(rig.port.take(), ['wait']);
  t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_READY), 0);
  t.equal(rig.device.registers.queueConfig(0, 0, 0), undefined);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_SEL, 1);
  t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_READY), 1, 'the others stay');
});

t.test('virtio 1.3 §4.2.2.2 a stopped queue keeps size and addresses', async (t) => {
  using rig = negotiated();
  rig.write(mmio.VIRTIO_MMIO_QUEUE_NUM, 8);
  rig.enableQueue(0);
  rig.write(mmio.VIRTIO_MMIO_STATUS, 0xf);
  rig.answer();
  const before = rig.device.registers.queueConfig(0, 0, 0);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 0);
  rig.takeEvents();
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 1);
  t.same(rig.takeEvents(), ['0: queues changed']);
  t.same(rig.device.registers.queueConfig(0, 0, 0), before);
});

t.test('virtio 1.3 §4.2.2.2 a queue that is not served is stopped at once', async (t) => {
  using rig = negotiated();
  rig.enableQueue(0);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 0);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 0);
  t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_READY), 0);
  t.same(rig.takeEvents(), []);
  t.same(rig.port.take(), []);
});

t.test(
  'virtio 1.3 §4.2.2.1 QueueReset reads 1 until it is done, then 0 like QueueReady',
  async (t) => {
    using rig = running(2);
    rig.port.meanwhile = () => {};
    rig.write(mmio.VIRTIO_MMIO_QUEUE_RESET, 1);
    t.same(rig.takeEvents(), ['0: queues changed']);
    t.same(rig.port.take(), [], 'the driver polls');
    t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_RESET), 1);
    rig.write(mmio.VIRTIO_MMIO_QUEUE_RESET, 1);
    rig.write(mmio.VIRTIO_MMIO_QUEUE_RESET, 0);
    t.same(rig.takeEvents(), [], 'reported once');
    rig.device.registers.completeQueueReset(0);
    t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_RESET), 0);
    t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_READY), 0);
    rig.enableQueue(0);
    t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_RESET), 0);
    t.equal(rig.device.registers.queueConfig(0, 0, 0)?.size, 64, '§2.6.1.2.1 the largest again');
  },
);

t.test('virtio 1.3 §4.2.2.1 QueueReset needs VIRTIO_F_RING_RESET', async (t) => {
  using rig = running(1, { features: featureSet(VIRTIO_F_VERSION_1) });
  rig.write(mmio.VIRTIO_MMIO_QUEUE_RESET, 1);
  t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_RESET), 0);
  t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_READY), 1);
  t.same(rig.takeEvents(), []);
});

t.test('QueueReady 0 during a queue reset waits for its end', async (t) => {
  using rig = running();
  rig.write(mmio.VIRTIO_MMIO_QUEUE_RESET, 1);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 0);
  t.same(rig.port.take(), ['wait']);
  t.same(rig.takeEvents(), ['0: queues changed'], 'reported once');
  t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_READY), 0);
});

t.test('QueueReady 0 during a reset, by another vCPU, waits for its end', async (t) => {
  using rig = running();
  rig.port.meanwhile = () => {};
  rig.write(mmio.VIRTIO_MMIO_STATUS, 0);
  t.not(rig.status, 0, 'the reset continues');
  rig.port.take();
  rig.answer();
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 0);
  t.same(rig.port.take(), ['wait']);
  t.equal(rig.status, 0);
  t.same(rig.takeEvents(), ['0: reset']);
});

t.test('KVM API 4.59 QueueNotify has a doorbell for each value', async (t) => {
  using rig = new VirtioMmioRig({ devices: 2 });
  const expected = rig.devices.flatMap(({ kicks }, device) =>
    kicks.map((kick, queue) => [`memory:f000${device * 2}050=${queue}`, kick] as const),
  );
  t.same([...rig.port.doorbells], expected);
  t.match(rig.devices[1]?.notifyPlaces, [
    { space: 'memory', address: 0xf000_2050, by: 'ioeventfd' },
  ]);
});

t.test('virtio 1.3 §4.2.3.3 a notification that exits names its queue', async (t) => {
  using rig = running(3, {
    features: featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_NOTIFICATION_DATA),
  });
  t.match(rig.device.notifyPlaces, [{ space: 'memory', by: 'exit' }]);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_NOTIFY, 0x8123_0002);
  t.same(rig.device.kicks.map(drainEventfd), [false, false, true]);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_NOTIFY, 1);
  t.same(rig.device.kicks.map(drainEventfd), [false, true, false]);
  for (const [value, size] of [
    [3, 4],
    [0xffff, 4],
    [0, 2],
  ] as const) {
    rig.write(mmio.VIRTIO_MMIO_QUEUE_NOTIFY, value, size);
  }
  t.same(rig.device.kicks.map(drainEventfd), [false, false, false]);
});

t.test('virtio 1.3 §4.2.3.4 the line is up while InterruptStatus has a bit', async (t) => {
  using rig = running();
  t.equal(rig.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS), 0);
  rig.device.assertQueueInterrupt();
  rig.device.notifyConfigChange();
  t.same(rig.port.take(), ['line 20 up']);
  t.equal(rig.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS), 3);
  t.equal(rig.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS), 3, 'reading acknowledges nothing');
  rig.write(mmio.VIRTIO_MMIO_INTERRUPT_ACK, 1);
  t.equal(rig.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS), 2);
  t.same(rig.port.take(), []);
  rig.write(mmio.VIRTIO_MMIO_INTERRUPT_ACK, 0xffff_ffff);
  t.equal(rig.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS), 0);
  t.same(rig.port.take(), ['line 20 down']);
});

t.test('an event shows in InterruptStatus before its signal has come round', async (t) => {
  using rig = running();
  t.equal(rig.device.callEventfd(), rig.device.lineEventfd);
  signalEventfd(rig.device.lineEventfd);
  t.equal(rig.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS), 1);
  t.equal(drainEventfd(rig.device.lineEventfd), false, 'it is not taken twice');
  rig.write(mmio.VIRTIO_MMIO_INTERRUPT_ACK, 1);
  t.equal(rig.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS), 0);
});

t.test('virtio 1.3 §2.4.1 nothing is notified after a reset that happened before', async (t) => {
  using rig = running();
  rig.device.notifyConfigChange();
  signalEventfd(rig.device.lineEventfd);
  rig.write(mmio.VIRTIO_MMIO_STATUS, 0);
  t.equal(rig.port.lines.get(20), false);
  t.equal(rig.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS), 0);
});

t.test('devices take turns on the lines, and share them', async (t) => {
  using rig = new VirtioMmioRig({ devices: 6 });
  const [first, , , , fifth, sixth] = rig.devices;
  first?.notifyConfigChange();
  fifth?.notifyConfigChange();
  sixth?.notifyConfigChange();
  t.same(rig.port.take(), ['line 20 up', 'line 21 up']);
  rig.write(mmio.VIRTIO_MMIO_INTERRUPT_ACK, 2, 4, 0);
  t.same(rig.port.take(), [], 'another device still asserts it');
  rig.write(mmio.VIRTIO_MMIO_INTERRUPT_ACK, 2, 4, 4);
  t.same(rig.port.take(), ['line 20 down']);
});
