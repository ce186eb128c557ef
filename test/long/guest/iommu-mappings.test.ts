/** Mappings of the IOMMU that come and go under load. */
import { truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { MiB } from '../../../src/memory/ram-layout.ts';
import {
  compileUserlandDriver,
  installUserlandDriver,
} from '../../support/fixtures/userland-driver.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { bootGuest } from '../../support/rigs/guest.ts';

const folder = testFolder(t);
const disk = path.join(folder, 'disk.raw');
writeFileSync(disk, '');
truncateSync(disk, 16 * MiB);
const compiled = path.join(folder, 'driver');
compileUserlandDriver(compiled);

const vm = await bootGuest({
  image: 'tools',
  // Unmapped at once, and not in bulk later.
  append: 'iommu.strict=1 nodevmm.ip=10.0.9.2/24',
  machine: {
    iommu: true,
    disks: [{ path: disk, engine: 'io_uring' }],
    nets: [{ hostAddress: '10.0.9.1/24' }],
  },
});
t.teardown(() => vm[Symbol.asyncDispose]());
const sh = await installUserlandDriver(vm, compiled);

t.test(
  'unmapped after each request, with traffic on a disk, a network, and a driver in userland',
  async (t) => {
    t.match(await sh('cat /sys/kernel/iommu_groups/0/type'), /^DMA$/, 'strict');
    await sh(`
    bind vfio-pci $(function_of 4)
    ping -i 0.1 -c 50 -s 4000 10.0.9.1 >/ping &
    ping=$!
    userland-driver storm $(function_of 4) 200 >/storm &
    storm=$!
    fio --name=v --filename=/dev/vda --rw=randwrite --bs=4k-64k --size=2M --direct=1 --ioengine=libaio --iodepth=8 \\
      --verify=crc32c --do_verify=1 --verify_fatal=1 --output=/fio
    wait $ping
    wait $storm`);
    t.equal(await sh('cat /storm'), '200 rounds');
    t.match(await sh('cat /ping'), / 0% packet loss/);
    t.equal(await sh('dmesg | grep -c "fault from" || true'), '0');
  },
);
