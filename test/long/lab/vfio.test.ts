/**
 * More of VFIO than fits into each run: what is refused, a network card, INTx, reboots, a host that wants its
 * device back, and whatever ends nodevmm.
 */
import t from 'tap';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { CARD, NVME, SATA, SATA_TEXT, VfioLab } from '../../support/rigs/vfio-lab.ts';

// Emulation takes its time on a busy host; a hang is the runner's to see.
t.setTimeout(1_800_000);
const lab = await VfioLab.boot();
t.teardown(() => lab.close());

t.test('without vfio-pci', async (t) => {
  const { stderr, exitCode } = await lab.run('--vfio', `${NVME},bind=on`, '--', 'true');
  t.match(stderr.toString(), /no driver vfio-pci .* run "modprobe vfio-pci"/);
  t.equal(exitCode, 2);
  await lab.loadModules();
});

t.test('what is refused, in one line', async (t) => {
  const absent = await lab.run('--vfio', '0000:7f:00.0', '--', 'true');
  t.match(absent.stderr.toString(), /no PCI function 0000:7f:00\.0/);
  const wrong = await lab.run('--vfio', 'nvme0', '--', 'true');
  t.match(wrong.stderr.toString(), /must be a PCI address/);
  for (const { stderr, exitCode } of [absent, wrong]) {
    t.equal(stderr.toString().trim().split('\n').length, 1);
    t.equal(exitCode, 2);
  }
  const doctor = await lab.nodevmm(['doctor']);
  t.match(doctor.stdout.toString(), /VFIO +.*\d+ IOMMU groups; bound to vfio-pci: 0/);
});

t.test('too little memory may be locked: the disk goes back to its driver', async (t) => {
  const without = ['setpriv', '--bounding-set=-ipc_lock', '--inh-caps=-ipc_lock'];
  const limited = ['sh', '-c', 'ulimit -l 65536; exec "$@"', 'sh'];
  const args = ['run', '--no-lab', '--guest', 'tools', '--vfio', `${NVME},bind=on`, '--', 'true'];
  const { stderr, exitCode } = await lab.nodevmm(args, [...without, ...limited]);
  t.match(stderr.toString(), /need all 512 MiB of guest RAM locked, but the limit is 64 MiB/);
  t.equal(stderr.toString().trim().split('\n').length, 1);
  t.equal(exitCode, 2);
  t.equal(await lab.driverOf(NVME), 'nvme');
});

t.test('disk and network card in a guest, before and after its reboot', async (t) => {
  const found = await lab.steps(`
const { vm, sh } = await boot(['${NVME}', '${CARD}']);
report('devices', await sh('lspci -n | grep -e 1b36:0010 -e 1af4:1041 | wc -l'));
report('fio', await sh(FIO));
await sh('echo to-the-next | dd of=/dev/nvme0n1 conv=fsync 2>/dev/null');
report('net', await sh(PING));
const reboot = once(vm, 'reboot');
vm.spawn(['reboot', '-f']).exit.catch(() => {});
await reboot;
report('after', await sh('dd if=/dev/nvme0n1 bs=11 count=1 iflag=fullblock 2>/dev/null'));
report('net after', await sh(PING));
await vm.close();
`);
  t.equal(found.get('devices'), '2');
  t.equal(found.get('fio'), '0', 'no error');
  t.match(found.get('net'), / 0% packet loss/);
  t.equal(found.get('after'), 'to-the-next');
  t.match(found.get('net after'), / 0% packet loss/);
  t.equal(found.get('log'), undefined);
  t.same([await lab.driverOf(NVME), await lab.driverOf(CARD)], ['nvme', 'virtio-pci']);
});

t.test('a reboot behind the guest’s IOMMU leaves nothing mapped', async (t) => {
  const found = await lab.steps(`
const { vm, sh } = await boot(['${NVME}'], '', { iommu: true });
const pinned = async () => (await vm.inspect()).functions[0].pinned;
for (const round of ['first', 'second']) {
  report('fio ' + round, await sh(FIO));
  report(round, await pinned());
  const reboot = once(vm, 'reboot');
  vm.spawn(['reboot', '-f']).exit.catch(() => {});
  await reboot;
  report(round + ' after', await pinned());
  await vm.ready();
}
await vm.close();
`);
  for (const round of ['first', 'second']) {
    t.equal(found.get(`fio ${round}`), '0', 'no error');
    const pinned = Number(found.get(round));
    t.ok(pinned > 0 && pinned < 64 * MiB, `${pinned} bytes`);
    t.equal(
      found.get(`${round} after`),
      String(384 * MiB),
      'all guest RAM, as before its driver came',
    );
  }
  t.equal(found.get('log'), undefined);
});

t.test('interrupts by the pins', async (t) => {
  const found = await lab.steps(`
const { vm, sh } = await boot(['${NVME}', '${CARD}'], 'pci=nomsi');
report('disk', await sh('dd if=/dev/nvme0n1 bs=64k count=32 iflag=direct 2>/dev/null | wc -c'));
report('net', await sh(PING));
report('interrupts', await sh('grep -e nvme0q -e virtio /proc/interrupts'));
await vm.close();
`);
  t.equal(found.get('disk'), String(2 * MiB));
  t.match(found.get('net'), / 0% packet loss/);
  t.match(found.get('interrupts'), /IO-APIC +\d+-fasteoi .*nvme0q0/);
  t.equal(found.get('log'), undefined);
});

t.test('MSI, registers in ports, and a function that no driver had', async (t) => {
  const found = await lab.steps(`
const { vm, sh } = await boot(['${SATA}'], '', { fileSystems: [MODULES] });
await sh(MOUNT + '; modprobe -a ahci sd_mod; until [ -b /dev/sda ]; do sleep 1; done');
report('disk', await sh('dd if=/dev/sda bs=64k count=32 iflag=direct 2>/dev/null | head -c ${SATA_TEXT.length}'));
report('interrupts', await sh('grep ahci /proc/interrupts'));
report('bars', await sh('lspci -v -d ::0106'));
await vm.close();
`);
  t.equal(found.get('disk'), SATA_TEXT);
  t.match(found.get('interrupts'), /PCI-MSI-0000:00:0\d\.0 +0-edge +ahci/);
  t.match(found.get('bars'), /I\/O ports at 10\d\d \[size=32\]/);
  t.equal(found.get('log'), undefined);
  const gone = `test -e /sys/bus/pci/devices/${SATA}/driver || echo no driver`;
  t.equal(await lab.sh(gone), 'no driver');
});

t.test('the host takes the disk back: the guest runs on without it', async (t) => {
  const found = await lab.steps(`
const { vm, sh } = await boot(['${NVME}']);
const slot = await sh("lspci -n | sed -n 's/^\\\\([0-9a-f:.]*\\\\) .*1b36:0010.*/\\\\1/p'");
report('before', await sh('setpci -s ' + slot + ' 0.l'));
await promisify(exec)('echo ${NVME} >/sys/bus/pci/drivers/vfio-pci/unbind');
report('guest', await sh('setpci -s ' + slot + ' 0.l; echo alive'));
report('mapped', mapped());
await vm.close();
`);
  t.equal(found.get('before'), '00101b36');
  t.match(found.get('log'), /vfio0: the host wants 0000:00:10\.0 back/);
  t.equal(found.get('guest'), 'ffffffff\nalive');
  t.equal(found.get('mapped'), 'false');
  t.equal(await lab.driverOf(NVME), 'nvme');
});

for (const signal of ['TERM', 'KILL'] as const) {
  t.test(`SIG${signal} to nodevmm`, async (t) => {
    const child = lab.start(
      '--name',
      'signalled',
      '--vfio',
      `${NVME},bind=on`,
      '--',
      'sleep',
      '600',
    );
    const hasDisk = ['vm', '--vm', 'signalled', 'exec', '--', 'test', '-b', '/dev/nvme0n1'];
    while ((await lab.nodevmm(hasDisk)).exitCode !== 0);
    t.equal(await lab.driverOf(NVME), 'vfio-pci');
    const second = await lab.run('--vfio', NVME, '--', 'true');
    t.match(second.stderr.toString(), /another process has IOMMU group \d+ of 0000:00:10\.0/);
    t.equal(second.exitCode, 2);
    child.kill(`SIG${signal}`);
    await child.exit;
    if (signal === 'KILL') {
      t.equal(await lab.driverOf(NVME), 'vfio-pci', 'nobody is left to bind it back');
      const { stdout, exitCode } = await lab.run('--vfio', NVME, '--', 'ls', '/dev/nvme0n1');
      t.equal(exitCode, 0, 'and it can be used again');
      t.equal(stdout.toString().trim(), '/dev/nvme0n1');
      const byHand = `echo >devices/${NVME}/driver_override; echo ${NVME} >drivers/vfio-pci/unbind`;
      await lab.sh(`cd /sys/bus/pci; ${byHand}; echo ${NVME} >drivers_probe`);
    }
    t.equal(await lab.driverOf(NVME), 'nvme');
  });
}
