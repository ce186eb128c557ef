/** Other kernels behind the IOMMU: groups, and each kind of device. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import type { KernelSeries } from '../../../src/guest/kernel.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { sha256, testFolder } from '../../support/rigs/files.ts';
import { bootGuest, guestShell } from '../../support/rigs/guest.ts';

interface KernelCase {
  readonly kernel: KernelSeries;
  readonly image: 'minimal' | 'tools';
  readonly version: RegExp;
  /** Console, entropy, disk, network, shared folder. */
  readonly groups: number;
}

const KERNELS: readonly KernelCase[] = [
  // Without a driver of the IOMMU: the devices stay in bypass mode.
  { kernel: '6.1', image: 'minimal', version: /^6\.1\..*-cloud-amd64$/, groups: 0 },
  { kernel: '6.12-amd64', image: 'tools', version: /^6\.12\.[^-]*-amd64$/, groups: 5 },
];

for (const { kernel, image, version, groups } of KERNELS) {
  t.test(`Linux ${kernel}`, async (t) => {
    const folder = testFolder(t);
    const file = path.join(folder, 'disk.raw');
    writeFileSync(file, '');
    truncateSync(file, 4 * MiB);
    writeFileSync(path.join(folder, 'data'), Buffer.alloc(MiB, 'behind the IOMMU '));
    await using vm = await bootGuest({
      kernel,
      image,
      append: 'nodevmm.ip=10.0.9.2/24',
      machine: {
        iommu: true,
        disks: [{ path: file }],
        nets: [{ hostAddress: '10.0.9.1/24', ring: { packed: true } }],
        fileSystems: [{ tag: 'shared', source: folder }],
      },
    });
    const sh = (script: string): Promise<string> => guestShell(vm, script);
    t.match(await sh('uname -r'), version);
    t.equal(
      await sh('ls -d /sys/kernel/iommu_groups/*/devices/* 2>/dev/null | wc -l || true'),
      `${groups}`,
    );
    t.match(
      await sh(`head -c 4m /dev/urandom >/random; dd if=/random of=/dev/vda bs=64k conv=fsync 2>/dev/null
        sha256sum </random`),
      sha256(readFileSync(file)),
      'disk',
    );
    await sh('ping -c 2 -s 4000 -W 20 10.0.9.1');
    t.match(
      await sh('mkdir -p /shared; mount -t virtiofs shared /shared; sha256sum </shared/data'),
      sha256(readFileSync(path.join(folder, 'data'))),
      'shared folder',
    );
    t.equal(await sh('head -c 100 /dev/hwrng | wc -c'), '100');
    t.equal(await sh('dmesg | grep -c "fault from" || true'), '0');
  });
}
