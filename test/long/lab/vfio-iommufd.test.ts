/**
 * VFIO by device files and iommufd. Debian's kernels have neither: vfio and iommufd are compiled from the kernel's
 * sources (25 s of CPU the first time, and a package of 153 MB).
 */
import t from 'tap';
import { CARD, NVME, VfioLab } from '../../support/rigs/vfio-lab.ts';

// Emulation takes its time on a busy host; a hang is the runner's to see.
t.setTimeout(1_800_000);
const lab = await VfioLab.boot();
t.teardown(() => lab.close());

t.test('a kernel without device files', async (t) => {
  await lab.loadModules();
  const { stderr, exitCode } = await lab.run('--vfio', `${NVME},bind=on,iommufd=on`, '--', 'true');
  t.match(stderr.toString(), /^nodevmm: no file for 0000:00:10\.0 in \/dev\/vfio\/devices; /);
  t.equal(stderr.toString().trim().split('\n').length, 1);
  t.equal(exitCode, 2);
  t.equal(await lab.driverOf(NVME), 'nvme');
  await lab.sh('/run/nodevmm/busybox rmmod vfio_iommu_type1 vfio_pci vfio_pci_core vfio');
  await lab.loadOwnModules();
});

t.test('disk and network card, before and after a reboot', async (t) => {
  const found = await lab.steps(`
const { vm, sh } = await boot(['${NVME}', '${CARD}'], '', {}, { iommufd: 'on' });
report('opened', opened());
report('fio', await sh(FIO));
report('net', await sh(PING));
report('pinned', (await vm.inspect()).functions.map(({ pinned }) => pinned >> 20).join());
const reboot = once(vm, 'reboot');
vm.spawn(['reboot', '-f']).exit.catch(() => {});
await reboot;
report('fio after', await sh(FIO));
report('net after', await sh(PING));
await vm.close();
report('closed', opened());
`);
  t.match(
    found.get('opened'),
    /^\/dev\/iommu \/dev\/vfio\/devices\/vfio\d \/dev\/vfio\/devices\/vfio\d$/,
  );
  t.equal(found.get('fio'), '0', 'no error');
  t.match(found.get('net'), / 0% packet loss/);
  t.equal(found.get('pinned'), '384,384', 'one address space for both');
  t.equal(found.get('fio after'), '0');
  t.match(found.get('net after'), / 0% packet loss/);
  t.equal(found.get('closed'), '');
  t.equal(found.get('log'), undefined);
  t.same([await lab.driverOf(NVME), await lab.driverOf(CARD)], ['nvme', 'virtio-pci']);
});

t.test('by itself where groups have no files, and else by group', async (t) => {
  const steps = `
const { vm, sh } = await boot(['${NVME}']);
report('opened', opened());
report('disk', await sh('dd if=/dev/nvme0n1 bs=64k count=32 iflag=direct 2>/dev/null | wc -c'));
await vm.close();
`;
  const both = await lab.steps(steps);
  t.match(both.get('opened'), /^\/dev\/vfio\/\d+ \/dev\/vfio\/vfio$/);
  await lab.sh('mv /dev/vfio/vfio /dev/vfio/hidden');
  t.teardown(() => lab.sh('mv /dev/vfio/hidden /dev/vfio/vfio'));
  const alone = await lab.steps(steps);
  t.match(alone.get('opened'), /^\/dev\/iommu \/dev\/vfio\/devices\/vfio\d$/);
  for (const found of [both, alone]) t.equal(found.get('disk'), String(2 * 2 ** 20));
  const doctor = await lab.nodevmm(['doctor']);
  t.match(doctor.stdout.toString(), /VFIO +.*IOMMU groups/);
});

t.test('a device that another process has, and SIGKILL to that', async (t) => {
  const child = lab.start(
    '--name',
    'first',
    '--vfio',
    `${NVME},bind=on,iommufd=on`,
    '--',
    'sleep',
    '600',
  );
  const hasDisk = ['vm', '--vm', 'first', 'exec', '--', 'test', '-b', '/dev/nvme0n1'];
  while ((await lab.nodevmm(hasDisk)).exitCode !== 0);
  for (const mode of ['on', 'off']) {
    const second = await lab.run('--vfio', `${NVME},iommufd=${mode}`, '--', 'true');
    t.match(second.stderr.toString(), /^nodevmm: another process has .*0000:00:10\.0/, mode);
    t.equal(second.stderr.toString().trim().split('\n').length, 1);
    t.equal(second.exitCode, 2);
  }
  child.kill('SIGKILL');
  await child.exit;
  const args = ['--vfio', `${NVME},iommufd=on`, '--', 'ls', '/dev/nvme0n1'];
  const { stdout, exitCode } = await lab.run(...args);
  t.equal(exitCode, 0, 'it can be used again');
  t.equal(stdout.toString().trim(), '/dev/nvme0n1');
});
