/** guests/userland-driver with packed rings, and by physical addresses where there is no IOMMU. */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import type { MachineOptions, RingOptions } from '../../../src/index.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import {
  compileUserlandDriver,
  installUserlandDriver,
  RPMB_DEVICE,
} from '../../support/fixtures/userland-driver.ts';
import { sha256, testFolder } from '../../support/rigs/files.ts';
import { bootGuest } from '../../support/rigs/guest.ts';

const folder = testFolder(t);
const compiled = path.join(folder, 'driver');
compileUserlandDriver(compiled);
const data = randomBytes(MiB);

function machine(ring: RingOptions): Partial<MachineOptions> {
  const file = path.join(folder, 'disk.raw');
  writeFileSync(file, data);
  return { rng: { ring }, disks: [{ path: file, ring }], devices: [{ module: RPMB_DEVICE, ring }] };
}

/** Each device, once. @param options of the driver */
async function drives(
  t: Test,
  sh: (script: string) => Promise<string>,
  options: string,
): Promise<void> {
  const run = (args: string): Promise<string> => sh(`userland-driver ${options} ${args}`);
  t.match(await run('rng $(function_of 4) 16'), /^[0-9a-f]{32}$/);
  t.match(await run('blk $(function_of 2) read 0 2048'), sha256(data));
  t.match(await run('rpmb $(function_of 28) key'), /^key: /);
  await run(`rpmb $(function_of 28) write 0 'kept by ${options}'`);
  t.equal(await run('rpmb $(function_of 28) read 0 1'), `kept by ${options}`);
}

const BIND = (driver: string): string => `for type in 2 4 28; do
  bind ${driver} $(function_of $type)
done`;

t.test('packed rings, behind the IOMMU', async (t) => {
  await using vm = await bootGuest({
    machine: { iommu: true, ...machine({ packed: true }) },
    provoked: /the IOMMU does not map/,
  });
  const sh = await installUserlandDriver(vm, compiled);
  await sh(BIND('vfio-pci'));
  await drives(t, sh, '--packed');
  t.equal(
    await sh('userland-driver --packed fault $(function_of 2) forbidden'),
    'the device needs a reset\nthe page is as it was\nit works again',
  );
});

t.test('without an IOMMU: uio_pci_generic, split and packed', async (t) => {
  await using vm = await bootGuest({ machine: machine({ packed: true }) });
  const sh = await installUserlandDriver(vm, compiled);
  await sh('echo 4 >/proc/sys/vm/nr_hugepages');
  await sh(BIND('uio_pci_generic'));
  await drives(t, sh, '--access uio');
  await drives(t, sh, '--access uio --packed');
  await t.rejects(sh('userland-driver rng $(function_of 4)'), /userland-driver: /);
});
