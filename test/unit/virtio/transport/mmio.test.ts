/** Control registers of virtio over MMIO (virtio 1.3 §4.2.2), status and features with them. */
import t from 'tap';
import * as mmio from '../../../../src/abi/virtio-mmio.ts';
import * as abi from '../../../../src/abi/virtio-pci.ts';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import type { Breach } from '../../../../src/virtio/observe/observation.ts';
import { observeRegisters } from '../../../../src/virtio/observe/observe.ts';
import { VirtioMmioRig } from '../../../support/rigs/virtio-mmio.ts';

const { ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK } = abi;
const UP = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

t.test('virtio 1.3 §4.2.2.1 magic value, version, device and vendor', async (t) => {
  using rig = new VirtioMmioRig();
  t.equal(rig.read(0), 0x74726976, 'MagicValue');
  t.equal(rig.read(4), 2, 'Version');
  t.equal(rig.read(8), 42, 'DeviceID');
  t.equal(rig.read(12), 0x1af4, 'VendorID');
});

t.test('virtio 1.3 §4.2.2 DeviceFeatures shows 32 bits by DeviceFeaturesSel', async (t) => {
  using rig = new VirtioMmioRig();
  const shown = [0, 1, 2, 0x8000_0000, 0xffff_ffff].map((select) => {
    rig.write(mmio.VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
    return rig.read(mmio.VIRTIO_MMIO_DEVICE_FEATURES);
  });
  t.same(shown, [0b10_0001, 0x101, 0, 0, 0], 'bits 0, 5, 32 and 40');
});

t.test('virtio 1.3 §4.2.2 DriverFeatures sets 32 bits by DriverFeaturesSel', async (t) => {
  using rig = new VirtioMmioRig();
  for (const [select, value] of [
    [0, 0xdead_beef],
    [1, 0x8000_0001],
    [2, 0xffff_ffff],
  ] as const) {
    rig.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
    rig.write(mmio.VIRTIO_MMIO_DRIVER_FEATURES, value);
  }
  t.equal(rig.device.registers.driverFeatures, 0x8000_0001_dead_beefn);
});

for (const [name, accept] of [
  ['a bit that was not offered', featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED)],
  ['no VIRTIO_F_VERSION_1', featureSet(0)],
  ['a bit without the one that it needs', featureSet(5, VIRTIO_F_VERSION_1)],
] as const) {
  t.test(`virtio 1.3 §2.2.2 FEATURES_OK is refused for ${name}`, async (t) => {
    using rig = new VirtioMmioRig();
    t.equal(rig.negotiate(accept), ACKNOWLEDGE | DRIVER);
    t.equal(rig.negotiate() & FEATURES_OK, FEATURES_OK);
  });
}

t.test(
  'virtio 1.3 §3.1.1 Status follows the initialization; DRIVER_OK is reported once',
  async (t) => {
    using rig = new VirtioMmioRig();
    t.equal(rig.status, 0);
    rig.initialize();
    t.equal(rig.status, UP);
    rig.write(mmio.VIRTIO_MMIO_STATUS, UP);
    t.same(rig.takeEvents(), ['0: driver ok']);
  },
);

t.test('virtio 1.3 §2.1 bits of Status that drivers do not own cannot be set', async (t) => {
  using rig = new VirtioMmioRig();
  rig.write(mmio.VIRTIO_MMIO_STATUS, 0xffff_ff70 | ACKNOWLEDGE);
  t.equal(rig.status, ACKNOWLEDGE);
});

t.test('virtio 1.3 §2.4.1 the write of 0 to Status is over when the reset is', async (t) => {
  using rig = new VirtioMmioRig();
  rig.initialize(2);
  rig.takeEvents();
  rig.answer();
  rig.write(mmio.VIRTIO_MMIO_STATUS, 0);
  t.same(rig.takeEvents(), ['0: reset']);
  t.same(rig.port.take(), ['wait']);
  t.equal(rig.status, 0);
  rig.write(mmio.VIRTIO_MMIO_STATUS, ACKNOWLEDGE);
  t.equal(rig.status, ACKNOWLEDGE, 'the next write is not lost');
});

t.test('virtio 1.3 §2.4 the reset of a device that is not served does not wait', async (t) => {
  using rig = new VirtioMmioRig();
  rig.negotiate();
  rig.write(mmio.VIRTIO_MMIO_STATUS, 0);
  t.equal(rig.status, 0);
  t.same(rig.takeEvents(), []);
  t.same(rig.port.take(), []);
});

t.test('virtio 1.3 §4.2.2.1 a reset clears InterruptStatus and every QueueReady', async (t) => {
  using rig = new VirtioMmioRig();
  rig.initialize(3);
  rig.device.assertQueueInterrupt();
  rig.device.notifyConfigChange();
  rig.answer();
  rig.port.take();
  rig.write(mmio.VIRTIO_MMIO_STATUS, 0);
  t.equal(rig.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS), 0);
  for (const queue of [0, 1, 2]) {
    rig.write(mmio.VIRTIO_MMIO_QUEUE_SEL, queue);
    t.equal(rig.read(mmio.VIRTIO_MMIO_QUEUE_READY), 0);
  }
  t.equal(rig.device.registers.driverFeatures, 0n);
  t.same(rig.port.take(), ['wait', 'line 20 down']);
});

t.test('virtio 1.3 §4.2.2.2 control registers are 32 bits, aligned, or nothing', async (t) => {
  using rig = new VirtioMmioRig();
  rig.negotiate();
  for (const [offset, size] of [
    [mmio.VIRTIO_MMIO_STATUS, 1],
    [mmio.VIRTIO_MMIO_STATUS, 2],
    [mmio.VIRTIO_MMIO_STATUS + 1, 1],
    [mmio.VIRTIO_MMIO_STATUS - 2, 4],
    [mmio.VIRTIO_MMIO_STATUS + 2, 4],
  ] as const) {
    t.equal(rig.read(offset, size), 0, `${size} bytes at ${offset}`);
    rig.write(offset, 0, size);
    t.equal(rig.status, 0xb, 'no reset');
  }
  t.equal(rig.read(0, 2), 0);
  t.equal(rig.read(2, 2), 0);
});

t.test('virtio 1.3 §4.2.2 registers that are written only, and none, read as 0', async (t) => {
  using rig = new VirtioMmioRig();
  rig.initialize();
  const readable = new Set([
    ...[0x00, 0x04, 0x08, 0x0c, 0x10, 0x34, 0x44, 0x60, 0x70, 0xb0, 0xb4, 0xb8, 0xbc, 0xc0, 0xfc],
  ]);
  for (let offset = 0; offset < 0x100; offset += 4) {
    if (!readable.has(offset)) t.equal(rig.read(offset), 0, `0x${offset.toString(16)}`);
  }
});

t.test('virtio 1.3 §4.2.2 read-only registers keep their value', async (t) => {
  using rig = new VirtioMmioRig();
  rig.write(mmio.VIRTIO_MMIO_QUEUE_SEL, 1);
  for (const offset of [0x00, 0x04, 0x08, 0x0c, 0x10, 0x34, 0x60, 0xb0, 0xb4, 0xb8, 0xbc, 0xfc]) {
    const before = rig.read(offset);
    rig.write(offset, 0x5a5a_5a5a);
    t.equal(rig.read(offset), before, `0x${offset.toString(16)}`);
  }
});

t.test('virtio 1.3 §4.2.2.2 an observer gets what a driver breaks', async (t) => {
  const breaches: string[] = [];
  const device = { features: 1n << 32n, featureDependencies: [], kicks: [] };
  const breach = ({ rule }: Breach): void => void breaches.push(rule);
  const observer = observeRegisters({ device: 0, tracer: undefined, check: { device, breach } });
  if (observer === undefined) throw new Error('no observer');
  using rig = new VirtioMmioRig({ observer, features: device.features });
  rig.answer();
  rig.initialize();
  rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 0);
  rig.enableQueue(0);
  t.same(breaches, [], 'a queue may be stopped, and made ready again');
  rig.write(mmio.VIRTIO_MMIO_QUEUE_NUM_MAX, 1);
  rig.write(mmio.VIRTIO_MMIO_QUEUE_DESC_LOW, 1);
  t.same(breaches, ['read-only', 'enabled-queue']);
});

t.test('virtio 1.3 §4.2.2 a shared memory region that does not exist', async (t) => {
  using rig = new VirtioMmioRig();
  for (const id of [0, 1, 0xff, 0xffff_ffff]) {
    rig.write(0xac, id);
    t.equal(rig.read(mmio.VIRTIO_MMIO_SHM_LEN_LOW), 0xffff_ffff);
    t.equal(rig.read(mmio.VIRTIO_MMIO_SHM_LEN_HIGH), 0xffff_ffff);
    t.equal(rig.read(mmio.VIRTIO_MMIO_SHM_BASE_LOW), 0xffff_ffff);
    t.equal(rig.read(mmio.VIRTIO_MMIO_SHM_BASE_HIGH), 0xffff_ffff);
  }
});

t.test('virtio 1.3 §4.2.2 Config is read in the width of its fields, from 0x100', async (t) => {
  using rig = new VirtioMmioRig();
  t.equal(rig.read(0x100, 1), 1);
  t.equal(rig.read(0x102, 2), 0x0403);
  t.equal(rig.read(0x104, 4), 0x0807_0605);
  t.equal(rig.read(0x109, 1), 10);
  for (const [offset, size] of [
    [0x109, 2],
    [0x10a, 1],
    [0x108, 4],
    [0x1ffc, 4],
  ] as const) {
    t.equal(rig.read(offset, size), 0, 'past the end');
    rig.write(offset, 0xffff_ffff, size);
  }
  t.same(rig.takeEvents(), []);
});

t.test('virtio 1.3 §2.5 the driver writes what of Config is writable', async (t) => {
  using rig = new VirtioMmioRig();
  rig.write(0x104, 0xaabb, 2);
  rig.write(0x100, 0xffff_ffff, 4);
  t.equal(rig.read(0x104, 4), 0x0807_aabb);
  t.equal(rig.read(0x100, 4), 0x0403_0201);
  t.same(rig.takeEvents(), ['0: config 4: bb aa']);
});

t.test('virtio 1.3 §4.2.2.1 ConfigGeneration shows that Config changed', async (t) => {
  using rig = new VirtioMmioRig();
  const { config } = rig.device.registers;
  const before = rig.read(mmio.VIRTIO_MMIO_CONFIG_GENERATION);
  rig.read(0x100, 1);
  t.equal(rig.read(mmio.VIRTIO_MMIO_CONFIG_GENERATION), before, 'nothing did');
  config.view.setUint8(0, 99);
  config.changed();
  t.equal(rig.read(0x100, 1), 99);
  t.not(rig.read(mmio.VIRTIO_MMIO_CONFIG_GENERATION), before);
});

t.test('devices in other windows are others', async (t) => {
  using rig = new VirtioMmioRig({ devices: 2 });
  rig.write(mmio.VIRTIO_MMIO_STATUS, ACKNOWLEDGE, 4, 1);
  t.equal(rig.read(mmio.VIRTIO_MMIO_STATUS, 4, 0), 0);
  t.equal(rig.read(mmio.VIRTIO_MMIO_STATUS, 4, 1), ACKNOWLEDGE);
});
