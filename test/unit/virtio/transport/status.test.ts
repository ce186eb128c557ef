/** Device status and feature negotiation as a driver over PCI sees them (virtio 1.3 §2.1, §2.2, §3.1). */
import t from 'tap';
import * as abi from '../../../../src/abi/virtio-pci.ts';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { VirtioPciRig } from '../../../support/rigs/virtio-pci.ts';

const { ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, DEVICE_NEEDS_RESET, FAILED } = abi;
const UP = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

function decoded(): VirtioPciRig {
  const rig = new VirtioPciRig();
  rig.enableDecoding();
  return rig;
}

t.test('virtio 1.3 §2.1 the status starts out as 0', async (t) => {
  using rig = decoded();
  t.equal(rig.common('device_status'), 0);
});

t.test('virtio 1.3 §3.1.1 the status follows the sequence of initialization', async (t) => {
  using rig = decoded();
  for (const status of [
    ACKNOWLEDGE,
    ACKNOWLEDGE | DRIVER,
    ACKNOWLEDGE | DRIVER, // features are written here
    ACKNOWLEDGE | DRIVER | FEATURES_OK,
    UP,
  ]) {
    rig.setCommon('driver_feature_select', 1);
    rig.setCommon('driver_feature', 1);
    rig.setCommon('device_status', status);
    t.equal(rig.common('device_status'), status);
  }
  t.same(rig.takeEvents(), ['1: driver ok']);
});

t.test('virtio 1.3 §2.1.1 a status bit is never cleared by a driver', async (t) => {
  using rig = decoded();
  rig.negotiate();
  rig.setCommon('device_status', ACKNOWLEDGE);
  t.equal(rig.common('device_status'), ACKNOWLEDGE | DRIVER | FEATURES_OK);
});

t.test('virtio 1.3 §2.1 bits that drivers do not own cannot be set', async (t) => {
  using rig = decoded();
  rig.setCommon('device_status', 0x70 | ACKNOWLEDGE);
  t.equal(rig.common('device_status'), ACKNOWLEDGE);
});

t.test('virtio 1.3 §2.1 FAILED is kept until the reset', async (t) => {
  using rig = decoded();
  rig.setCommon('device_status', FAILED | ACKNOWLEDGE);
  t.equal(rig.common('device_status'), FAILED | ACKNOWLEDGE);
  rig.setCommon('device_status', 0);
  t.equal(rig.common('device_status'), 0);
});

for (const [name, accept] of [
  ['a bit that was not offered', featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED)],
  ['no VIRTIO_F_VERSION_1', featureSet(0)],
  ['a bit without the one that it needs', featureSet(5, VIRTIO_F_VERSION_1)],
] as const) {
  t.test(`virtio 1.3 §2.2.2 FEATURES_OK is refused for ${name}`, async (t) => {
    using rig = decoded();
    t.equal(rig.negotiate(accept), ACKNOWLEDGE | DRIVER);
    t.equal(rig.negotiate(featureSet(0, 5, VIRTIO_F_VERSION_1)) & FEATURES_OK, FEATURES_OK);
  });
}

t.test('virtio 1.3 §3.1.1 DRIVER_OK without FEATURES_OK is refused', async (t) => {
  using rig = decoded();
  rig.setCommon('device_status', ACKNOWLEDGE | DRIVER | DRIVER_OK);
  t.equal(rig.common('device_status'), ACKNOWLEDGE | DRIVER);
  t.same(rig.takeEvents(), []);
});

t.test('virtio 1.3 §4.1.4.3.1 device_feature shows 32 bits by its selector', async (t) => {
  using rig = decoded();
  const shown = [0, 1].map((select) => {
    rig.setCommon('device_feature_select', select);
    return rig.common('device_feature');
  });
  t.same(shown, [0b10_0001, 0x101], 'bits 0, 5, 32 and 40');
});

t.test('virtio 1.3 §4.1.4.3.1 device_feature is 0 for selectors above 1', async (t) => {
  using rig = decoded();
  for (const select of [2, 3, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
    rig.setCommon('device_feature_select', select);
    t.equal(rig.common('device_feature_select'), select);
    t.equal(rig.common('device_feature'), 0);
  }
});

t.test('virtio 1.3 §4.1.4.3.1 driver_feature reads back by its selector', async (t) => {
  using rig = decoded();
  for (const [select, value] of [
    [0, 0xdead_beef],
    [1, 0x8000_0001],
    [2, 0xffff_ffff],
  ] as const) {
    rig.setCommon('driver_feature_select', select);
    rig.setCommon('driver_feature', value);
    t.equal(rig.common('driver_feature'), select < 2 ? value : 0);
  }
  t.equal(rig.device.registers.driverFeatures, 0x8000_0001_dead_beefn);
});

t.test('virtio 1.3 §3.1.1 features written after FEATURES_OK are lost', async (t) => {
  using rig = decoded();
  rig.negotiate();
  rig.setCommon('driver_feature_select', 0);
  rig.setCommon('driver_feature', 0);
  t.equal(rig.common('driver_feature'), 0b10_0001);
});

t.test('virtio 1.3 §4.1.4.3.2 read-only fields keep their value', async (t) => {
  using rig = decoded();
  for (const field of [
    'device_feature',
    'num_queues',
    'config_generation',
    'queue_notify_off',
    'admin_queue_index',
    'admin_queue_num',
  ] as const) {
    const before = rig.common(field);
    rig.setCommon(field, 0xff);
    t.equal(rig.common(field), before, field);
  }
});

t.test('DRIVER_OK is reported once', async (t) => {
  using rig = decoded();
  rig.initialize();
  rig.setCommon('device_status', UP);
  rig.setCommon('device_status', UP | FAILED);
  t.same(rig.takeEvents(), ['1: driver ok']);
});

t.test('virtio 1.3 §2.4 the reset of a device that is not served is immediate', async (t) => {
  using rig = decoded();
  rig.negotiate();
  rig.setCommon('device_status', 0);
  t.equal(rig.common('device_status'), 0);
  t.same(rig.takeEvents(), []);
});

t.test('virtio 1.3 §2.4.1 a reset reads back as 0 once the queues are released', async (t) => {
  using rig = decoded();
  rig.initialize();
  rig.takeEvents();
  rig.setCommon('device_status', 0);
  t.equal(rig.common('device_status'), UP);
  t.same(rig.takeEvents(), ['1: reset']);
  rig.device.registers.completeReset();
  t.equal(rig.common('device_status'), 0);
});

t.test('virtio 1.3 §2.4 during a reset, other status writes are lost', async (t) => {
  using rig = decoded();
  rig.initialize();
  rig.setCommon('device_status', 0);
  rig.takeEvents();
  rig.setCommon('device_status', 0);
  rig.setCommon('device_status', UP | FAILED);
  t.equal(rig.common('device_status'), UP);
  t.same(rig.takeEvents(), []);
});

t.test('virtio 1.3 §2.4 a reset takes all registers back', async (t) => {
  using rig = decoded();
  rig.initialize(3);
  rig.setCommon('config_msix_vector', 1);
  rig.setCommon('queue_msix_vector', 2);
  rig.setCommon('device_status', 0);
  rig.device.registers.completeReset();
  t.equal(rig.common('config_msix_vector'), abi.VIRTIO_MSI_NO_VECTOR, '§4.1.5.1.2.1');
  t.equal(rig.common('queue_select'), 0);
  t.equal(rig.device.registers.driverFeatures, 0n);
  for (const [queue, size] of rig.shape.queueSizes.entries()) {
    rig.setCommon('queue_select', queue);
    t.equal(rig.common('queue_size'), size);
    t.equal(rig.common('queue_enable'), 0, '§4.1.4.3.1');
    t.equal(rig.common('queue_reset'), 0, '§4.1.4.3.1');
    t.equal(rig.common('queue_msix_vector'), abi.VIRTIO_MSI_NO_VECTOR, '§4.1.5.1.2.1');
    t.equal(rig.common('queue_desc'), 0);
  }
});

t.test('virtio 1.3 §3.1 a device that was reset can be initialized again', async (t) => {
  using rig = decoded();
  rig.initialize();
  rig.setCommon('device_status', 0);
  rig.device.registers.completeReset();
  rig.takeEvents();
  rig.initialize();
  t.equal(rig.common('device_status'), UP);
  t.same(rig.takeEvents(), ['1: driver ok']);
});

t.test('virtio 1.3 §2.1.2 DEVICE_NEEDS_RESET shows until the reset', async (t) => {
  using rig = decoded();
  rig.initialize();
  t.equal(rig.device.registers.setNeedsReset(), true);
  t.equal(rig.device.registers.setNeedsReset(), false, 'once');
  t.equal(rig.common('device_status'), UP | DEVICE_NEEDS_RESET);
  rig.setCommon('device_status', UP);
  t.equal(rig.common('device_status'), UP | DEVICE_NEEDS_RESET);
  rig.setCommon('device_status', 0);
  rig.device.registers.completeReset();
  t.equal(rig.common('device_status'), 0);
});

t.test('virtio 1.3 §6 a machine without VIRTIO_F_RING_RESET works as well', async (t) => {
  using rig = new VirtioPciRig({ features: featureSet(VIRTIO_F_VERSION_1) });
  rig.initialize();
  t.equal(rig.device.registers.driverFeatures & featureSet(VIRTIO_F_RING_RESET), 0n);
  t.equal(rig.common('device_status'), UP);
});
