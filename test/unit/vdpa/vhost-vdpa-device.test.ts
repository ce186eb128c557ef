/** A vDPA device that cannot be used, in one line each. */
import t from 'tap';
import { EACCES, EIO, ENOTTY } from '../../../src/abi/errno.ts';
import { featureSet } from '../../../src/abi/virtio-ring.ts';
import { VhostVdpaDevice } from '../../../src/vdpa/vhost-vdpa-device.ts';
import { vdpaBlk } from '../../../src/virtio/device/blk/frontend-blk.ts';
import { vdpaNet } from '../../../src/virtio/device/net/frontend-net.ts';
import { vdpaKind } from '../../../src/virtio/device/vdpa-type.ts';
import { until } from '../../support/fakes/machine.ts';
import { FakeVhostVdpa, PARENT } from '../../support/fakes/vhost-vdpa.ts';

const open = (kernel: FakeVhostVdpa, path = PARENT): Promise<VhostVdpaDevice> =>
  VhostVdpaDevice.open('blk0', { path }, vdpaKind([vdpaBlk], 256), kernel);

t.test('why it cannot be used', async (t) => {
  const cases: readonly (readonly [(kernel: FakeVhostVdpa) => void, RegExp])[] = [
    [(kernel) => kernel.fails.set('open', EACCES), /cannot open .*EACCES; as root run "chmod/],
    [(kernel) => kernel.fails.set('open', EIO), /cannot open .*EIO; see whether its parent/],
    [(kernel) => Object.assign(kernel, { opened: true }), /is in use; end the other process/],
    [
      (kernel) => kernel.fails.set('VHOST_VDPA_GET_DEVICE_ID', ENOTTY),
      /is not a vhost-vdpa device/,
    ],
    [(kernel) => Object.assign(kernel, { deviceId: 1 }), /is not a disk, but a device of type 1/],
    [(kernel) => Object.assign(kernel, { features: 0n }), /supports legacy drivers only/],
    [(kernel) => Object.assign(kernel, { queueCount: 66 }), /has 66 queues, more than 65/],
    [(kernel) => Object.assign(kernel, { backendFeatures: 0n }), /this kernel is too old/],
  ];
  for (const [spoil, message] of cases) {
    const kernel = new FakeVhostVdpa();
    spoil(kernel);
    const wasOpen = kernel.opened;
    await t.rejects(open(kernel), { code: 'E_VDPA', message });
    t.equal(kernel.opened, wasOpen, 'it is free again');
  }
  await t.rejects(open(new FakeVhostVdpa(), '/dev/vhost-vdpa-7'), {
    code: 'E_VDPA',
    message: /this host has no \/dev\/vhost-vdpa-7/,
  });
});

const openAny = (kernel: FakeVhostVdpa): Promise<VhostVdpaDevice> =>
  VhostVdpaDevice.open('vdpa0', { path: PARENT }, vdpaKind([vdpaNet, vdpaBlk], 256, true), kernel);

t.test('any device: what it is, the parent says', async (t) => {
  const kernel = new FakeVhostVdpa();
  kernel.deviceId = 4;
  kernel.features |= featureSet(3, 60);
  kernel.config = new Uint8Array(4096).fill(7);
  const entropy = await openAny(kernel);
  t.equal(entropy.deviceId, 4);
  t.equal(entropy.pciClass, 0x00_ff00);
  t.equal(entropy.features, featureSet(3, 60));
  t.same(
    entropy.queues.map(({ name }) => name),
    ['queue0', 'queue1'],
  );
  t.same(entropy.config, new Uint8Array(256).fill(7), 'not the whole window');
  t.ok(entropy.configWriteMask.every((bits) => bits === 0xff));
  const disk = await openAny(new FakeVhostVdpa());
  t.equal(disk.queues[0]?.name, 'requestq1', 'a known type is as with its own option');
});

t.test('types that need more than queues and a configuration', async (t) => {
  for (const [deviceId, message] of [
    [5, /type 5 \(traditional memory balloon\) cannot be served elsewhere: it decides what RAM/],
    [18, /type 18 \(input\) cannot .* answer each write of the driver at once/],
    [23, /type 23 \(IOMMU\) cannot/],
    [24, /type 24 \(memory\) cannot/],
    [0, /type 0 cannot be served elsewhere: device IDs are 1 to 63/],
    [64, /device IDs are 1 to 63/],
  ] as const) {
    const kernel = Object.assign(new FakeVhostVdpa(), { deviceId });
    await t.rejects(openAny(kernel), { code: 'E_DEVICE_TYPE', message });
    t.notOk(kernel.opened);
  }
});

t.test('what a driver writes, in runs, and again once the parent was reset', async (t) => {
  const kernel = new FakeVhostVdpa();
  kernel.deviceId = 16;
  const device = await openAny(kernel);
  const shown = Uint8Array.from(device.config);
  device.attach({ readConfig: () => shown, updateConfig: () => {}, post: () => {} });
  shown.set([1, 2, 3, 4], 4);
  shown[9] = 5;
  device.configWritten(4, 2);
  device.configWritten(6, 2);
  device.configWritten(9, 1);
  await until(() => kernel.calls.length === 2);
  t.same(kernel.take(), ['config 4 1,2,3,4', 'config 9 5']);
  device.reset();
  device.configWritten(0, 1);
  await until(() => kernel.calls.length > 0);
  t.same(kernel.take(), ['config 0 0']);
});

t.test('a network interface: its queues and its configuration are the parent’s', async (t) => {
  const kernel = new FakeVhostVdpa();
  kernel.deviceId = 1;
  kernel.queueCount = 5;
  kernel.config = Uint8Array.from([2, 0, 0, 0, 0, 1, 1, 0, 2, 0]);
  const device = await VhostVdpaDevice.open(
    'net0',
    { path: PARENT },
    vdpaKind([vdpaNet], 256),
    kernel,
  );
  t.same(
    device.queues.map(({ name }) => name),
    ['receiveq1', 'transmitq1', 'receiveq2', 'transmitq2', 'controlq'],
  );
  t.same(device.config, kernel.config);
  t.ok(device.configWriteMask.every((bits) => bits === 0));
});
