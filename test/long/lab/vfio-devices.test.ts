/**
 * VFIO with a network card under load, and devices that misbehave: one that reaches for memory that is not the
 * guest's, and one that vanishes.
 */
import t from 'tap';
import { IPERF, NVME, Switch, VfioLab } from '../../support/rigs/vfio-lab.ts';

/** A card to pass on, and a device with DMA to any address. */
const [CARD, EDU] = ['0000:00:14.0', '0000:00:17.0'];
const network = new Switch(0x13, [
  'virtio-net-pci,disable-legacy=on,iommu_platform=on,ats=on,addr=0x14',
]);

// Emulation takes its time on a busy host; a hang is the runner's to see.
t.setTimeout(2_400_000);
const lab = await VfioLab.boot([
  ...network.devices,
  ...['-device', 'edu,dma_mask=0xffffffff,addr=0x17'],
]);
t.teardown(() => lab.close());
await lab.loadModules();
await network.open(lab);

for (const [mode, append, pattern] of [
  ['MSI-X', '', /PCI-MSIX/],
  ['INTx', 'pci=nomsi', /IO-APIC +\d+-fasteoi/],
] as const) {
  t.test(`iperf3 through virtio-net with ${mode}, before and after a reboot`, async (t) => {
    const found = await lab.steps(`${IPERF}
const { vm, sh } = await boot(['${CARD}'], '${append}');
report('net', await iperf(sh));
report('interrupts', await sh('grep virtio0 /proc/interrupts'));
report('mode', (await vm.inspect()).functions[0].interrupts.mode);
const reboot = once(vm, 'reboot');
vm.spawn(['reboot', '-f']).exit.catch(() => {});
await reboot;
report('net after', await iperf(sh));
await vm.close();
`);
    t.equal(found.get('net'), 'sent and received');
    t.match(found.get('interrupts'), pattern);
    t.equal(found.get('mode'), mode);
    t.equal(found.get('net after'), 'sent and received');
    t.equal(found.get('log'), undefined);
    t.equal(await lab.driverOf(CARD), 'virtio-pci');
  });
}

t.test('DMA outside of the guest’s RAM faults, and harms nothing', async (t) => {
  const found = await lab.steps(`
const { vm, sh } = await boot(['${EDU}'], 'memmap=1M$0x10000000');
const dma = (from, to, command) =>
  'devmem $((bar + 0x80)) 32 ' + from + '; devmem $((bar + 0x88)) 32 ' + to + '; devmem $((bar + 0x90)) 32 4; ' +
  'devmem $((bar + 0x98)) 32 ' + command + '; while [ $(($(devmem $((bar + 0x98))) & 1)) = 1 ]; do :; done; ';
const start = 'slot=$(lspci -D -d 1234:11e8 | cut -d " " -f 1); setpci -s $slot COMMAND=6; ' +
  'bar=$(cut -d " " -f 1 /sys/bus/pci/devices/$slot/resource | head -n 1); ';
// Into the device, and from it to another place.
const inside = start + 'devmem 0x10000000 32 0xcafe0001; devmem 0x10000100 32 0; ' +
  dma('0x10000000', '0x40000', '1') + dma('0x40000', '0x10000100', '3') + 'devmem 0x10000100';
report('inside', await sh(inside));
host('dmesg -C');
report('outside', await sh(start + dma('0x40000', '0x70000000', '3') + dma('0x70000000', '0x40000', '1') + 'echo done'));
report('faults', host('dmesg | grep DMAR'));
report('inside after', await sh(inside));
await vm.close();
`);
  t.equal(found.get('inside'), '0xCAFE0001');
  t.equal(found.get('outside'), 'done');
  t.match(found.get('faults'), /DMA Write.* \[00:17\.0\] fault addr 0x70000000/);
  t.match(found.get('faults'), /DMA Read.* \[00:17\.0\] fault addr 0x70000000/);
  t.equal(found.get('inside after'), '0xCAFE0001');
  t.equal(found.get('log'), undefined);
});

t.test('a disk that is pulled out under I/O', async (t) => {
  const found = await lab.steps(`
const { vm, sh } = await boot(['${NVME}']);
const gone = once(vm, 'log');
const io = vm.spawn(['sh', '-c', 'while dd if=/dev/zero of=/dev/nvme0n1 bs=64k count=64 oflag=direct 2>/dev/null; do echo written; done']);
await once(io.stdout, 'data');
await promisify(exec)('echo 1 >/sys/bus/pci/devices/${NVME}/remove');
await gone;
io.stdout.resume();
report('guest', await sh('echo alive'));
report('mapped', mapped());
report('opened', opened().split(' ').filter((path) => path !== '').length);
await vm.close();
report('locked', locked());
await promisify(exec)('echo 1 >/sys/bus/pci/rescan');
`);
  t.match(found.get('log'), /vfio0: the host wants 0000:00:10\.0 back/);
  t.equal(found.get('guest'), 'alive');
  t.equal(found.get('mapped'), 'false');
  t.equal(found.get('opened'), '0');
  t.equal(found.get('locked'), '0');
  await lab.sh(`until [ -e /sys/bus/pci/devices/${NVME}/driver ]; do sleep 1; done`);
  t.equal(await lab.driverOf(NVME), 'nvme');
});

t.test('files that may not be opened', async (t) => {
  const without = '-dac_override,-dac_read_search';
  const weak = ['setpriv', `--bounding-set=${without}`, `--inh-caps=${without}`];
  const group = await lab.sh(`echo vfio-pci >/sys/bus/pci/devices/${EDU}/driver_override
echo ${EDU} >/sys/bus/pci/drivers/vfio-pci/bind
group=$(basename "$(readlink /sys/bus/pci/devices/${EDU}/iommu_group)")
chown 65534 /dev/vfio/$group; echo $group`);
  const args = ['run', '--no-lab', '--guest', 'tools', '--vfio', EDU, '--', 'true'];
  const { stderr, exitCode } = await lab.nodevmm(args, weak);
  t.equal(
    stderr.toString().trim(),
    `nodevmm: cannot open /dev/vfio/${group}, the IOMMU group of ${EDU}: EACCES; run as root, or "chown $USER /dev/vfio/${group}"`,
  );
  t.equal(exitCode, 2);
});
