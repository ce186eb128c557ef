/** Device files and iommufd, on a host whose kernel may not have them. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { VfioContainer } from '../../../src/vfio/container.ts';
import { DmaSpaces } from '../../../src/vfio/dma-spaces.ts';
import { HostFunction } from '../../../src/vfio/host-function.ts';
import { IommufdSpace } from '../../../src/vfio/iommufd.ts';
import { testFolder } from '../../support/rigs/files.ts';

const NVME = '0000:01:00.0';

/** A function that VFIO has, in a tree like that of sysfs. */
function pciFunction(t: Test, hasFile = false): HostFunction {
  const sysfs = testFolder(t);
  const folder = join(sysfs, 'bus/pci/devices', NVME, 'vfio-dev/vfio3');
  mkdirSync(folder, { recursive: true });
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
