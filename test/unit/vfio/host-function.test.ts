/** Functions, drivers and IOMMU groups, in a tree like that of sysfs. */
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { VfioBinding } from '../../../src/vfio/binding.ts';
import { VfioDevice } from '../../../src/vfio/device.ts';
import {
  countVfio,
  functionAddress,
  HostFunction,
  isBound,
} from '../../../src/vfio/host-function.ts';
import { testFolder } from '../../support/rigs/files.ts';

const NVME = '0000:01:00.0';
const ETHERNET = 0x02_0000;

class FakeSysfs {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
    for (const driver of ['vfio-pci', 'nvme', 'e1000e', 'pcieport', 'pci-stub']) {
      mkdirSync(this.driver(driver), { recursive: true });
    }
  }

  driver(name: string): string {
    return join(this.path, 'bus/pci/drivers', name);
  }

  device(address: string): string {
    return join(this.path, 'bus/pci/devices', address);
  }

  add(address: string, driver?: string, group?: number, pciClass = ETHERNET): void {
    const path = this.device(address);
    mkdirSync(path, { recursive: true });
    writeFileSync(join(path, 'class'), `0x${pciClass.toString(16).padStart(6, '0')}\n`);
    writeFileSync(join(path, 'driver_override'), '(null)\n');
    if (driver !== undefined) symlinkSync(this.driver(driver), join(path, 'driver'));
    if (group === undefined) return;
    const groupPath = join(this.path, 'kernel/iommu_groups', String(group));
    mkdirSync(join(groupPath, 'devices'), { recursive: true });
    symlinkSync(path, join(groupPath, 'devices', address));
    symlinkSync(groupPath, join(path, 'iommu_group'));
  }

  read(path: string): string {
    return readFileSync(join(this.path, 'bus/pci', path), 'latin1');
  }
}

function sysfs(t: Test): FakeSysfs {
  return new FakeSysfs(testFolder(t));
}

t.test('addresses, with and without a domain', async (t) => {
  t.equal(functionAddress('0000:01:00.0'), NVME);
  t.equal(functionAddress('01:00.0'), NVME);
  t.equal(functionAddress('10000:E1:1F.7'), '10000:e1:1f.7');
  for (const wrong of [
    '',
    '1:00.0',
    '0000:01:00',
    '01:00.8',
    '01:20.0',
    '../01:00.0',
    '01:00.0/',
  ]) {
    t.equal(functionAddress(wrong), undefined, wrong);
  }
});

t.test('what is not there, and what no IOMMU keeps apart', async (t) => {
  const fake = sysfs(t);
  fake.add(NVME, 'nvme');
  t.throws(() => new HostFunction('0000:02:00.0', fake.path), {
    code: 'E_VFIO_DEVICE',
    message: /no PCI function 0000:02:00\.0/,
  });
  t.throws(() => new VfioDevice('vfio0', { address: NVME }, fake.path), {
    code: 'E_VFIO_IOMMU',
    message: /behind no IOMMU; .*intel_iommu=on/,
  });
});

t.test('others of the group that the host uses are named', async (t) => {
  const fake = sysfs(t);
  fake.add(NVME, 'vfio-pci', 7);
  fake.add('0000:00:01.0', 'pcieport', 7, 0x06_0400);
  fake.add('0000:00:01.1', undefined, 7, 0x06_0400);
  fake.add('0000:01:00.1', 'vfio-pci', 7);
  fake.add('0000:01:00.2', 'pci-stub', 7);
  fake.add('0000:01:00.3', undefined, 7);
  const found = new HostFunction(NVME, fake.path);
  t.equal(found.group, 7);
  t.same(found.neighbors(), []);
  found.checkGroup();
  fake.add('0000:01:00.4', 'e1000e', 7);
  fake.add('0000:01:00.5', 'nvme', 7);
  t.throws(() => new VfioDevice('vfio0', { address: NVME }, fake.path), {
    code: 'E_VFIO_GROUP',
    message: /group 7 .*: *.*0000:01:00\.4 \(e1000e\), 0000:01:00\.5 \(nvme\)/,
  });
});

t.test("another driver's function is taken on request only", async (t) => {
  const fake = sysfs(t);
  fake.add(NVME, 'nvme', 7);
  t.throws(() => new VfioDevice('vfio0', { address: NVME }, fake.path), {
    code: 'E_VFIO_DRIVER',
    message: /in use by the driver nvme; add bind=on/,
  });
  rmSync(fake.driver('vfio-pci'), { recursive: true });
  t.throws(() => new VfioDevice('vfio0', { address: NVME, bind: true }, fake.path), {
    code: 'E_VFIO_MODULE',
    message: /modprobe vfio-pci/,
  });
});

t.test('one that is bound already stays so', async (t) => {
  const fake = sysfs(t);
  fake.add(NVME, 'vfio-pci', 7);
  new VfioDevice('vfio0', { address: NVME, bind: true }, fake.path).close();
  t.equal(fake.read(`devices/${NVME}/driver_override`), '(null)\n');
});

t.test('it is bound, and its driver has it back afterwards', async (t) => {
  const fake = sysfs(t);
  fake.add(NVME, 'nvme', 7);
  const binding = new VfioBinding(new HostFunction(NVME, fake.path), true);
  t.equal(fake.read(`devices/${NVME}/driver_override`), 'vfio-pci');
  t.equal(fake.read('drivers/nvme/unbind'), NVME);
  t.equal(fake.read('drivers/vfio-pci/bind'), NVME);
  rmSync(join(fake.device(NVME), 'driver'));
  symlinkSync(fake.driver('vfio-pci'), join(fake.device(NVME), 'driver'));
  binding.close();
  t.equal(fake.read(`devices/${NVME}/driver_override`), '\n');
  t.equal(fake.read('drivers/vfio-pci/unbind'), NVME);
  t.equal(fake.read('drivers/nvme/bind'), NVME);
  rmSync(join(fake.driver('nvme'), 'bind'));
  binding.close();
  t.throws(() => fake.read('drivers/nvme/bind'), { code: 'ENOENT' }, 'once');
});

t.test('a binding that fails half-way is undone', async (t) => {
  const fake = sysfs(t);
  fake.add(NVME, 'nvme', 7);
  mkdirSync(join(fake.driver('vfio-pci'), 'bind'));
  t.throws(() => new VfioBinding(new HostFunction(NVME, fake.path), true), {
    code: 'E_VFIO_DRIVER',
    message: /cannot bind 0000:01:00\.0 to vfio-pci: EISDIR/,
  });
  t.equal(fake.read(`devices/${NVME}/driver_override`), '\n');
  t.equal(fake.read('drivers/nvme/bind'), NVME);
});

t.test('which functions are bound to vfio-pci', async (t) => {
  const fake = sysfs(t);
  fake.add(NVME, 'vfio-pci', 7);
  fake.add('0000:02:00.0', 'nvme', 8);
  fake.add('0000:02:00.1');
  t.equal(isBound(NVME, fake.path), true);
  for (const other of ['0000:02:00.0', '0000:02:00.1', '0000:03:00.0']) {
    t.equal(isBound(other, fake.path), false, other);
  }
});

t.test('what a host has of it', async (t) => {
  const fake = sysfs(t);
  t.same(countVfio(fake.path), { groups: 0, bound: 0 });
  fake.add(NVME, 'vfio-pci', 7);
  fake.add('0000:02:00.0', 'nvme', 8);
  symlinkSync(fake.device(NVME), join(fake.driver('vfio-pci'), NVME));
  writeFileSync(join(fake.driver('vfio-pci'), 'new_id'), '');
  t.same(countVfio(fake.path), { groups: 2, bound: 1 });
});
