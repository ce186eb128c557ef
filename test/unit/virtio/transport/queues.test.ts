/** Queue registers of the common configuration (virtio 1.3 §4.1.4.3, §2.6.1). */
import t from 'tap';
import * as pci from '../../../../src/abi/pci.ts';
import { VIRTIO_MSI_NO_VECTOR } from '../../../../src/abi/virtio-pci.ts';
import {
  featureSet,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { type RigOptions, VirtioPciRig } from '../../../support/rigs/virtio-pci.ts';

/** A device whose features are negotiated. */
function negotiated(options: RigOptions = {}): VirtioPciRig {
  const rig = new VirtioPciRig(options);
  rig.enableDecoding();
  rig.negotiate();
  return rig;
}

/** A running device with `queues` queues. */
function running(queues = 1, options: RigOptions = {}): VirtioPciRig {
  const rig = new VirtioPciRig(options);
  rig.initialize(queues);
  rig.takeEvents();
  return rig;
}

t.test('virtio 1.3 §4.1.4.3 num_queues counts the queues', async (t) => {
  using rig = negotiated();
  t.equal(rig.common('num_queues'), 3);
});

t.test('virtio 1.3 §4.1.4.3.1 a queue that does not exist reads as 0', async (t) => {
  using rig = negotiated();
  for (const queue of [3, 4, 0x7fff, 0xffff]) {
    rig.setCommon('queue_select', queue);
    t.equal(rig.common('queue_select'), queue);
    for (const field of [
      'queue_size',
      'queue_enable',
      'queue_notify_off',
      'queue_desc',
      'queue_driver',
      'queue_device',
      'queue_reset',
    ] as const) {
      rig.setCommon(field, 1);
      t.equal(rig.common(field), 0, field);
    }
  }
  t.same(rig.takeEvents(), []);
});

t.test(
  'virtio 1.3 §4.1.4.3 queue_size shows the most first, and can be made smaller',
  async (t) => {
    using rig = negotiated();
    rig.setCommon('queue_select', 1);
    t.equal(rig.common('queue_size'), 128);
    rig.setCommon('queue_size', 16);
    t.equal(rig.common('queue_size'), 16);
    rig.setCommon('queue_size', 128);
    t.equal(rig.common('queue_size'), 128);
  },
);

t.test(
  'virtio 1.3 §4.1.4.3.1 a split queue_size is a power of two, at most the largest',
  async (t) => {
    using rig = negotiated();
    for (const size of [0, 3, 65, 100, 128, 0xffff]) {
      rig.setCommon('queue_size', size);
      t.equal(rig.common('queue_size'), 64, `${size}`);
    }
  },
);

t.test('virtio 1.3 §2.8 a packed queue_size is any number, at most the largest', async (t) => {
  using rig = negotiated({ features: featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED) });
  rig.setCommon('queue_size', 37);
  t.equal(rig.common('queue_size'), 37);
  for (const size of [0, 65, 0xffff]) {
    rig.setCommon('queue_size', size);
    t.equal(rig.common('queue_size'), 37, `${size}`);
  }
});

t.test('virtio 1.3 §4.1.3.1 addresses are two 32-bit halves', async (t) => {
  using rig = negotiated();
  const fields = ['queue_desc', 'queue_driver', 'queue_device'] as const;
  fields.forEach((field, i) => {
    rig.setCommon(field, 0xfedc_ba90 + i * 0x10);
    rig.setCommon(field, 0x8000_0000 + i, 4);
  });
  fields.forEach((field, i) => {
    t.equal(rig.common(field), 0xfedc_ba90 + i * 0x10);
    t.equal(rig.common(field, 4), 0x8000_0000 + i);
  });
  rig.setCommon('queue_enable', 1);
  t.match(rig.device.registers.queueConfig(0, 7, 8), {
    index: 0,
    size: 64,
    descriptorArea: 0x8000_0000 * 2 ** 32 + 0xfedc_ba90,
    driverArea: 0x8000_0001 * 2 ** 32 + 0xfedc_baa0,
    deviceArea: 0x8000_0002 * 2 ** 32 + 0xfedc_bab0,
    kickFd: 7,
    callFd: 8,
  });
});

t.test('virtio 1.3 §4.1.4.3 queue_enable enables that queue', async (t) => {
  using rig = negotiated();
  rig.enableQueue(1);
  t.same(
    [0, 1, 2].map((queue) => rig.device.registers.queueConfig(queue, 0, 0)?.index),
    [undefined, 1, undefined],
  );
  t.equal(rig.common('queue_enable'), 1);
  t.same(rig.takeEvents(), [], 'DRIVER_OK will report it');
});

t.test('virtio 1.3 §4.1.4.3.2 writing 0 to queue_enable does not disable', async (t) => {
  using rig = negotiated();
  rig.enableQueue(0);
  rig.setCommon('queue_enable', 0);
  t.equal(rig.common('queue_enable'), 1);
});

t.test('virtio 1.3 §3.1.1 a queue is not enabled before FEATURES_OK', async (t) => {
  using rig = new VirtioPciRig();
  rig.enableDecoding();
  rig.enableQueue(0);
  t.equal(rig.common('queue_enable'), 0);
});

t.test('virtio 1.3 §4.1.4.3.2 an enabled queue does not change under the device', async (t) => {
  using rig = negotiated();
  rig.enableQueue(0);
  const before = rig.device.registers.queueConfig(0, 0, 0);
  rig.setCommon('queue_size', 8);
  for (const field of ['queue_desc', 'queue_driver', 'queue_device'] as const) {
    rig.setCommon(field, 0x1234_0000);
    rig.setCommon(field, 1, 4);
  }
  t.same(rig.device.registers.queueConfig(0, 0, 0), before);
});

t.test('virtio 1.3 §4.1.4.4 each queue has a doorbell of its own', async (t) => {
  using rig = negotiated();
  const offsets = rig.shape.queueSizes.map((_, queue) => {
    rig.setCommon('queue_select', queue);
    return rig.common('queue_notify_off');
  });
  t.same(offsets, [0, 1, 2]);
});

t.test('virtio 1.3 §4.1.5.1.2 vectors of queues and configuration read back', async (t) => {
  using rig = negotiated();
  t.equal(rig.common('config_msix_vector'), VIRTIO_MSI_NO_VECTOR);
  t.equal(rig.common('queue_msix_vector'), VIRTIO_MSI_NO_VECTOR);
  for (const vector of [0, 3, VIRTIO_MSI_NO_VECTOR]) {
    rig.setCommon('config_msix_vector', vector);
    rig.setCommon('queue_msix_vector', vector);
    t.equal(rig.common('config_msix_vector'), vector);
    t.equal(rig.common('queue_msix_vector'), vector);
  }
});

t.test(
  'virtio 1.3 §4.1.5.1.2.1 a vector that does not exist reads back as NO_VECTOR',
  async (t) => {
    using rig = negotiated();
    rig.setCommon('config_msix_vector', 1);
    rig.setCommon('queue_msix_vector', 1);
    rig.setCommon('config_msix_vector', 4);
    rig.setCommon('queue_msix_vector', 0x7ff);
    t.equal(rig.common('config_msix_vector'), VIRTIO_MSI_NO_VECTOR);
    t.equal(rig.common('queue_msix_vector'), VIRTIO_MSI_NO_VECTOR);
  },
);

t.test('virtio 1.3 §4.1.5.1.2 queues interrupt by their vector, or by none', async (t) => {
  using rig = negotiated();
  const { vectors, intxEventfd } = rig.device.plan;
  t.equal(rig.device.callEventfd(0), intxEventfd, 'INTx while MSI-X is disabled');
  rig.setMsixControl(pci.PCI_MSIX_FLAGS_ENABLE);
  t.equal(rig.device.callEventfd(0), -1);
  rig.setCommon('queue_msix_vector', 2);
  t.equal(rig.device.callEventfd(0), vectors[2]?.eventfd);
  t.equal(rig.device.callEventfd(1), -1);
});

t.test(
  'virtio 1.3 §4.1.5.1.2 a vector that changes while the queue is served is reported',
  async (t) => {
    using rig = running();
    rig.setMsixControl(pci.PCI_MSIX_FLAGS_ENABLE);
    t.equal(rig.messages, 1);
    rig.setCommon('queue_msix_vector', 2);
    t.equal(rig.messages, 1, 'not again until the owner has looked');
    t.same(rig.takeEvents(), ['1: interrupts changed']);
    rig.setCommon('queue_msix_vector', 2);
    t.same(rig.takeEvents(), [], 'no change');
    rig.setCommon('queue_msix_vector', 1);
    t.same(rig.takeEvents(), ['1: interrupts changed']);
  },
);

t.test(
  'virtio 1.3 §2.6.1 a queue reset reads 1 until it is done, then 0 and disabled',
  async (t) => {
    using rig = running(2);
    rig.setCommon('queue_select', 1);
    rig.setCommon('queue_size', 16);
    rig.setCommon('queue_reset', 1);
    t.equal(rig.common('queue_reset'), 1);
    t.same(rig.takeEvents(), ['1: queues changed']);
    rig.setCommon('queue_reset', 1);
    t.same(rig.takeEvents(), [], 'reported once');
    rig.device.registers.completeQueueReset(1);
    t.equal(rig.common('queue_reset'), 0);
    t.equal(rig.common('queue_enable'), 0);
    t.equal(rig.common('queue_size'), 128, '§2.6.1.2.1 the largest size again');
    rig.setCommon('queue_select', 0);
    t.equal(rig.common('queue_enable'), 1, 'the others stay');
  },
);

t.test('virtio 1.3 §2.6.1.2 a queue that was reset can be enabled again', async (t) => {
  using rig = running(1);
  rig.setCommon('queue_reset', 1);
  rig.device.registers.completeQueueReset(0);
  rig.takeEvents();
  rig.setCommon('queue_size', 16);
  rig.enableQueue(0);
  t.same(rig.takeEvents(), ['1: queues changed']);
  t.equal(rig.common('queue_reset'), 0, '§4.1.4.3.1');
  t.equal(rig.device.registers.queueConfig(0, 0, 0)?.size, 16);
});

t.test('virtio 1.3 §2.6.1 the reset of a queue that is not served yet is immediate', async (t) => {
  using rig = negotiated();
  rig.enableQueue(0);
  rig.setCommon('queue_reset', 1);
  t.equal(rig.common('queue_reset'), 0);
  t.equal(rig.common('queue_enable'), 0);
  t.same(rig.takeEvents(), []);
});

t.test('virtio 1.3 §4.1.4.3 queue_reset needs VIRTIO_F_RING_RESET', async (t) => {
  using rig = running(1, { features: featureSet(VIRTIO_F_VERSION_1) });
  rig.setCommon('queue_reset', 1);
  t.equal(rig.common('queue_reset'), 0);
  t.equal(rig.common('queue_enable'), 1);
  t.same(rig.takeEvents(), []);
});

t.test('virtio 1.3 §2.6.1 a queue that is disabled has nothing to reset', async (t) => {
  using rig = running(1);
  rig.setCommon('queue_select', 2);
  rig.setCommon('queue_reset', 1);
  t.equal(rig.common('queue_reset'), 0);
  t.same(rig.takeEvents(), []);
});

t.test('virtio 1.3 §2.4 during a reset no queue is enabled or reset', async (t) => {
  using rig = running(1);
  rig.setCommon('device_status', 0);
  rig.takeEvents();
  rig.setCommon('queue_select', 0);
  rig.setCommon('queue_reset', 1);
  rig.enableQueue(1);
  t.same(rig.takeEvents(), []);
});

t.test('virtio 1.3 §4.1.3.1 a field is accessed in its own width, or not at all', async (t) => {
  using rig = negotiated();
  const base = rig.structure(1);
  const select = base + 22;
  rig.writeMemory(select, 2, 2);
  rig.writeMemory(select, 1, 1);
  rig.writeMemory(select, 4, 0);
  t.equal(rig.readMemory(select, 2), 2);
  t.equal(rig.readMemory(select, 1), 0);
  t.equal(rig.readMemory(select + 1, 1), 0);
  t.equal(rig.readMemory(base + 20, 4), 0, 'status, generation and selector at once');
  rig.writeMemory(base + 20, 4, 0);
  t.equal(rig.common('device_status'), 0xb, 'the wide write was no reset');
});
