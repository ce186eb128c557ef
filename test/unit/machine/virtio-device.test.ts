/** How the owner of a device answers what the driver makes happen in its registers. */
import t from 'tap';
import * as pci from '../../../src/abi/pci.ts';
import { DEVICE_NEEDS_RESET, VIRTIO_PCI_ISR_CONFIG } from '../../../src/abi/virtio-pci.ts';
import { isReadable, signalEventfd } from '../../../src/host/fd.ts';
import { OwnerRig } from '../../support/rigs/machine-device.ts';

t.test('virtio 1.3 §3.1.1 DRIVER_OK starts the datapath with the enabled queues', async (t) => {
  await using o = new OwnerRig();
  o.rig.enableDecoding();
  o.rig.negotiate();
  o.rig.enableQueue(0);
  o.rig.enableQueue(2);
  await o.settle();
  t.same(o.datapath.take(), [], 'not before');
  o.rig.setCommon('device_status', 0xf);
  await o.settle();
  t.same(o.datapath.take(), ['start 0 2']);
  t.equal(o.datapath.last?.features, o.rig.shape.features);
  const { kicks, intxEventfd } = o.rig.device.plan;
  t.match(o.datapath.last?.queues[1], {
    index: 2,
    size: 256,
    kickFd: kicks[2],
    callFd: intxEventfd,
  });
});

t.test('virtio 1.3 §2.4.1 the status reads 0 when the datapath has stopped', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize();
  await o.settle();
  o.datapath.holdStop = true;
  o.rig.setCommon('device_status', 0);
  o.deliver();
  await o.datapath.stopping;
  t.equal(o.status, 0xf);
  o.datapath.release?.();
  await o.settled();
  t.equal(o.status, 0);
  t.same(o.calls, ['reset']);
  t.same(o.datapath.take(), ['start 0', 'stop']);
});

t.test('virtio 1.3 §3.1 a device restarts after a reset', async (t) => {
  await using o = new OwnerRig();
  for (let round = 0; round < 2; round++) {
    o.rig.initialize(2);
    await o.settle();
    t.same(o.datapath.take(), ['start 0 1'], 'with fresh queues');
    o.rig.setCommon('device_status', 0);
    await o.settle();
    t.same(o.datapath.take(), ['stop']);
  }
});

t.test('virtio 1.3 §2.6.1 a queue reset leaves the other queues where they were', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(3);
  await o.settle();
  o.datapath.take();
  o.rig.setCommon('queue_select', 1);
  o.rig.setCommon('queue_reset', 1);
  await o.settle();
  t.same(o.datapath.take(), ['stop', 'start 0@10 2@12']);
  t.equal(o.rig.common('queue_reset'), 0);
  t.equal(o.rig.common('queue_enable'), 0);
  o.rig.enableQueue(1);
  await o.settle();
  t.same(o.datapath.take(), ['stop', 'start 0@10 1 2@12'], 'and comes back fresh');
});

t.test('a queue that is enabled after DRIVER_OK is served', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  o.rig.enableQueue(2);
  await o.settle();
  t.same(o.datapath.take(), ['start 0', 'stop', 'start 0@10 2']);
});

t.test('virtio 1.3 §4.1.5.1.2 a vector that changes is used from then on', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  o.rig.setMsixControl(pci.PCI_MSIX_FLAGS_ENABLE);
  await o.settle();
  t.equal(o.datapath.last?.queues[0]?.callFd, -1);
  for (const vector of [2, 1]) {
    o.rig.setCommon('queue_msix_vector', vector);
    await o.settle();
    const { eventfd } = o.rig.device.plan.vectors[vector] ?? {};
    t.equal(o.datapath.last?.queues[0]?.callFd, eventfd);
  }
});

t.test('a reset that comes before the owner has looked leaves nothing to serve', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  o.rig.setCommon('device_status', 0);
  t.equal(o.deliver(), 1);
  await o.settled();
  t.equal(o.status, 0);
  t.same(o.datapath.take(), [], 'a device that was reset is not served');
  o.rig.initialize(2);
  await o.settle();
  t.same(o.datapath.take(), ['start 0 1']);
});

t.test('a late queue message does not serve a device that was reset', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  o.rig.setCommon('device_status', 0);
  await o.settle();
  o.datapath.take();
  for (let i = 0; i < 3; i++) o.owner.message({ kind: 'changed', device: 0 });
  await o.settled();
  t.same(o.datapath.take(), []);
});

t.test('virtio 1.3 §2.1.2 a broken device asks for a reset', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  o.datapath.events.broken('a rule (§2.7)');
  t.equal(o.status, 0xf | DEVICE_NEEDS_RESET);
  t.equal(o.rig.readMemory(o.rig.isrAddress, 1), VIRTIO_PCI_ISR_CONFIG);
  t.same(o.logs, ['test0: stopped: a rule (§2.7)']);
});

t.test('virtio 1.3 §2.1.2 a broken device is not served before its reset', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(2);
  await o.settle();
  o.datapath.take();
  o.datapath.events.broken('a rule');
  await o.owner.pause();
  await o.owner.resume();
  o.rig.setCommon('queue_select', 1);
  o.rig.setCommon('queue_reset', 1);
  await o.settle();
  t.equal(o.rig.common('queue_reset'), 0, 'the queue reset completes all the same');
  t.same(o.datapath.take(), ['stop']);
  o.rig.setCommon('device_status', 0);
  await o.settle();
  o.rig.initialize(1);
  await o.settle();
  t.same(o.datapath.take(), ['start 0']);
});

t.test('virtio 1.3 §2.1.2 a datapath that cannot start needs a reset', async (t) => {
  await using o = new OwnerRig();
  o.datapath.failStart = new Error('queue 0 is nowhere');
  o.rig.initialize(1);
  await o.settle();
  t.equal(o.status, 0xf | DEVICE_NEEDS_RESET);
  t.same(o.logs, ['test0: stopped: queue 0 is nowhere']);
  o.datapath.failStart = undefined;
  o.rig.setCommon('device_status', 0);
  await o.settle();
  t.equal(o.status, 0);
});

t.test('virtio 1.3 §2.4.1 a reset completes even when the datapath cannot stop', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  o.datapath.failStop = new Error('the worker is gone');
  o.rig.setCommon('device_status', 0);
  await o.settle();
  t.equal(o.status, 0);
  t.match(o.logs, [/the worker is gone/]);
  o.datapath.failStop = undefined;
});

t.test('an exception in the control half breaks the device, and completes the reset', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  o.device.reset = () => {
    throw new Error('thrown by reset');
  };
  o.rig.setCommon('device_status', 0);
  await o.settle();
  t.equal(o.status, 0, 'the driver waits for a 0');
  t.match(o.logs, [/thrown by reset/]);
  o.device.reset = () => {};
});

t.test('pause stops, resume continues where the queues were', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(2);
  await o.settle();
  await o.owner.pause();
  t.same(o.datapath.take(), ['start 0 1', 'stop']);
  await o.owner.resume();
  t.same(o.datapath.take(), ['start 0@10 1@11']);
});

t.test('what the driver did before the pause waits for resume', async (t) => {
  await using o = new OwnerRig();
  await o.owner.pause();
  o.rig.initialize(1);
  await o.settle();
  t.same(o.datapath.take(), []);
  await o.owner.resume();
  t.same(o.datapath.take(), ['start 0']);
  await o.owner.pause();
  o.rig.setCommon('device_status', 0);
  await o.settle();
  t.equal(o.status, 0, 'a reset needs no queues');
  await o.owner.resume();
  t.same(o.datapath.take(), ['stop']);
});

t.test('virtio 1.3 §4.1.4.3.1 a configuration change is seen and notified', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  const before = o.rig.common('config_generation');
  o.host?.updateConfig((config) => config.setUint16(0, 0x1234, true));
  t.equal(o.rig.readMemory(o.rig.isrAddress, 1), VIRTIO_PCI_ISR_CONFIG);
  t.equal(o.rig.readMemory(o.rig.deviceConfigAddress, 2), 0x1234);
  t.not(o.rig.common('config_generation'), before);
  t.equal(o.host?.readConfig()[1], 0x12);
});

t.test('virtio 1.3 §3.1.1 before DRIVER_OK a configuration change is not notified', async (t) => {
  await using o = new OwnerRig();
  o.rig.enableDecoding();
  o.host?.updateConfig((config) => config.setUint8(0, 9));
  t.equal(o.rig.readMemory(o.rig.isrAddress, 1), 0);
  t.equal(o.rig.readMemory(o.rig.deviceConfigAddress, 1), 9);
});

t.test(
  'a configuration change outlives the power cycle, what drivers wrote does not',
  async (t) => {
    await using o = new OwnerRig();
    o.rig.initialize(1);
    o.rig.writeMemory(o.rig.deviceConfigAddress + 4, 1, 0x77);
    o.host?.updateConfig((config) => config.setUint8(0, 9));
    await o.unplug();
    t.same([...o.device.config], [9, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    o.host?.updateConfig((config) => config.setUint8(1, 8));
    t.same([...(o.host?.readConfig() ?? [])], [9, 8, 3, 4, 5, 6, 7, 8, 9, 10]);
  },
);

t.test('messages pass between the halves', async (t) => {
  await using o = new OwnerRig();
  o.host?.post('down');
  o.datapath.events.message('up', '');
  o.datapath.events.log('a line');
  t.same(o.datapath.posted, ['down']);
  t.same(o.calls, ['message up']);
  t.same(o.logs, ['test0: a line']);
});

t.test('unplugging stops and resets; closing releases', async (t) => {
  const o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  await o.unplug();
  t.same(o.datapath.take(), ['start 0', 'stop']);
  t.same(o.calls, ['reset']);
  o.owner.message({ kind: 'changed', device: 0 });
  await o[Symbol.asyncDispose]();
  t.same(o.datapath.take(), ['close']);
  t.same(o.calls, ['reset', 'close']);
});

t.test('virtio 1.3 §4.1.5.1.1 a signal of the datapath becomes INTx', async (t) => {
  await using o = new OwnerRig();
  o.rig.initialize(1);
  await o.settle();
  const { intxEventfd } = o.rig.device.plan;
  const raised = new Promise<void>((resolve) => {
    const { port } = o.rig;
    const setLine = port.setLine.bind(port);
    port.setLine = (gsi, level) => {
      setLine(gsi, level);
      if (level) resolve();
    };
  });
  signalEventfd(intxEventfd);
  const keep = setInterval(() => {}, 1000);
  await raised;
  clearInterval(keep);
  t.equal(o.rig.readMemory(o.rig.isrAddress, 1), 1);
  t.equal(isReadable(intxEventfd), false);
});
