/** VFIO in a lab with an IOMMU: a guest drives the lab's NVMe disk, and the lab has it back. More in test/long. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { drawFunction } from '../../src/inspect/drawing/draw-function.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { stepsOf } from '../support/rigs/drawing.ts';
import { NVME, VfioLab } from '../support/rigs/vfio-lab.ts';

// Emulation takes its time on a busy host; a hang is the runner's to see.
t.setTimeout(600_000);
const lab = await VfioLab.boot();
t.teardown(() => lab.close());

t.test('a function that another driver has is not taken unasked', async (t) => {
  await lab.loadModules();
  const { stderr, exitCode } = await lab.run('--vfio', NVME, '--', 'true');
  t.match(stderr.toString(), /^nodevmm: 0000:00:10\.0 is in use by the driver nvme; add bind=on/);
  t.equal(stderr.toString().trim().split('\n').length, 1);
  t.equal(exitCode, 2);
  t.equal(await lab.driverOf(NVME), 'nvme');
});

t.test('a guest writes to the disk and reads it, by DMA and MSI-X', async (t) => {
  const found = await lab.steps(`
const { vm, sh } = await boot(['${NVME}']);
report('disk', await sh(
  'dd if=/dev/urandom of=/tmp/f bs=64k count=32 2>/dev/null; echo to-the-host | dd of=/tmp/f conv=notrunc 2>/dev/null; ' +
  'dd if=/tmp/f of=/dev/nvme0n1 bs=64k oflag=direct 2>/dev/null; dd if=/dev/nvme0n1 bs=64k count=32 iflag=direct 2>/dev/null | cmp - /tmp/f; echo same'));
report('interrupts', await sh('grep -c "PCI-MSIX.*nvme0q" /proc/interrupts'));
report('locked', locked());
report('mapped', mapped());
report('seen', JSON.stringify((await vm.inspect()).functions));
await vm.close();
report('unlocked', locked());
report('unmapped', !mapped());
report('override', readFileSync('/sys/bus/pci/devices/${NVME}/driver_override', 'latin1').trim());
`);
  t.equal(found.get('disk'), 'same');
  t.match(found.get('interrupts'), /^[1-9]/);
  t.equal(found.get('locked'), String(384 * 1024), 'all guest RAM');
  t.equal(found.get('mapped'), 'true', 'its registers, without exits');
  const seen = JSON.parse(found.get('seen') ?? '');
  t.match(seen, [
    {
      address: NVME,
      driver: 'vfio-pci',
      id: '1b36:0010',
      classCode: '010802',
      place: /^PCI 00:0/,
      gone: false,
      bars: [{ kind: 'memory64', address: /^0x/, areas: [{ offset: 0, slot: Number }] }],
      interrupts: { mode: 'MSI-X' },
      pinned: 384 * MiB,
      resetMethod: 'function',
      resets: 0,
    },
  ]);
  t.match(stepsOf(drawFunction(seen[0])), [
    'rings guestKernel hardware: DMA through the IOMMU',
    'control guestKernel vmm: VM exit to user space',
    'control vmm hostKernel: system call',
    'control hostKernel hardware: bus',
    'data guestKernel hardware: DMA through the IOMMU',
    'kick guestKernel hardware: no exit, bus',
  ]);
  t.equal(found.get('unlocked'), '0');
  t.equal(found.get('unmapped'), 'true');
  t.equal(found.get('override'), '(null)');
  t.equal(found.get('log'), undefined);
  t.equal(await lab.driverOf(NVME), 'nvme');
  t.equal(readFileSync(lab.image).subarray(0, 11).toString(), 'to-the-host');
});

t.test('behind the guest’s IOMMU the disk reaches what its driver maps', async (t) => {
  const found = await lab.steps(`
const { vm, sh } = await boot(['${NVME}'], '', { iommu: true });
report('fio', await sh(FIO));
report('groups', await sh('readlink /sys/bus/pci/devices/*/iommu_group | wc -l; ls /sys/class/nvme/nvme0/device/iommu_group/devices | wc -l'));
report('pinned', (await vm.inspect()).functions[0].pinned);
await vm.close();
report('unlocked', locked());
`);
  t.equal(found.get('fio'), '0', 'no error');
  t.match(found.get('groups'), /\n1$/, 'a group of its own');
  const pinned = Number(found.get('pinned'));
  t.ok(pinned > 0 && pinned < 64 * MiB, `${pinned} bytes, not all guest RAM`);
  t.equal(found.get('unlocked'), '0');
  t.equal(found.get('log'), undefined);
});
