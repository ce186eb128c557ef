/** Device files and iommufd, on a host whose kernel may not have them. */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { VfioContainer } from '../../../src/vfio/container.ts';
import { DmaSpaces } from '../../../src/vfio/dma-spaces.ts';
import { HostFunction } from '../../../src/vfio/host-function.ts';
import { IommufdSpace } from '../../../src/vfio/iommufd.ts';
import { testFolder } from '../../support/rigs/files.ts';

const NVME = '0000:01:00.0';

/** A function that VFIO has, in a tree like that of sysfs. */
function pciFunction(t: Test, hasFile = false, group = 1): HostFunction {
  const sysfs = testFolder(t);
  const device = join(sysfs, 'bus/pci/devices', NVME);
  const folder = join(device, 'vfio-dev/vfio3');
  mkdirSync(folder, { recursive: true });
  symlinkSync(`../../kernel/iommu_groups/${group}`, join(device, 'iommu_group'));
  if (hasFile) writeFileSync(join(folder, 'dev'), '511:3\n');
  return new HostFunction(NVME, sysfs);
}

t.test('the file of a device, once there is one', async (t) => {
  t.equal(pciFunction(t).deviceFile, undefined);
  t.equal(pciFunction(t, true).deviceFile, '/dev/vfio/devices/vfio3');
});

t.test('a function without a file', async (t) => {
  using space = new IommufdSpace();
  t.throws(() => space.open(pciFunction(t)), {
    code: 'E_VFIO_MODULE',
    message: /^no file for 0000:01:00\.0 in \/dev\/vfio\/devices; leave out iommufd=on, or /,
  });
});

t.test('what is wanted is taken; by itself nothing but a group without a file', async (t) => {
  const spaces = new DmaSpaces();
  const choose = (mode: 'on' | 'off' | 'auto', hasFile = false) =>
    spaces.choose(pciFunction(t, hasFile), mode);
  t.ok(choose('on') instanceof IommufdSpace);
  t.equal(choose('on', true), choose('on', true), 'one for all');
  t.ok(choose('auto') instanceof VfioContainer);
  t.ok(choose('off', true) instanceof VfioContainer);
});

t.test('behind the machine’s IOMMU each has its own, and no group is shared', async (t) => {
  const inGroup = (group: number): HostFunction => pciFunction(t, false, group);
  const spaces = new DmaSpaces();
  const own = spaces.choose(inGroup(1), 'off', true);
  t.not(own, spaces.choose(inGroup(2), 'off', true));
  t.ok(spaces.choose(inGroup(3), 'on', true) instanceof IommufdSpace);
  t.equal(spaces.choose(inGroup(4), 'off'), spaces.choose(inGroup(4), 'off'));
  for (const [group, behind] of [
    [1, true],
    [1, false],
    [4, true],
  ] as const) {
    t.throws(() => spaces.choose(inGroup(group), 'off', behind), {
      code: 'E_IOMMU',
      message: new RegExp(`^0000:01:00\\.0 shares IOMMU group ${group} .*; set iommu=off`),
    });
  }
});
