/** vDPA devices in sysfs. */
import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { isManagedInHardware, listVdpaDevices } from '../../../src/backend/vdpa-devices.ts';
import { testFolder } from '../../support/rigs/files.ts';

t.test('which there are, and which driver has them', async (t) => {
  const bus = testFolder(t);
  for (const driver of ['vhost_vdpa', 'virtio_vdpa']) {
    mkdirSync(join(bus, 'drivers', driver), { recursive: true });
  }
  for (const [name, driver] of [
    ['net0', 'vhost_vdpa'],
    ['disk0', 'virtio_vdpa'],
    ['idle0', ''],
  ] as const) {
    const folder = join(bus, 'devices', name);
    mkdirSync(join(folder, driver === 'vhost_vdpa' ? 'vhost-vdpa-12' : 'power'), {
      recursive: true,
    });
    if (driver !== '') symlinkSync(join('../../drivers', driver), join(folder, 'driver'));
  }
  const place = 'kernel';
  t.same(listVdpaDevices(bus), [
    { name: 'disk0', driver: 'virtio_vdpa', file: undefined, place },
    { name: 'idle0', driver: undefined, file: undefined, place },
    { name: 'net0', driver: 'vhost_vdpa', file: '/dev/vhost-vdpa-12', place },
  ]);
  t.same(listVdpaDevices(join(bus, 'none')), []);
});

t.test('management devices', async (t) => {
  t.ok(isManagedInHardware('pci/0000:01:00.0'));
  t.notOk(isManagedInHardware('vdpasim_net'));
});
