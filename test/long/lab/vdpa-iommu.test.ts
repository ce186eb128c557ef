/**
 * vDPA devices behind the guest's IOMMU: their parents, the kernel's simulator of a disk and virtio devices of the lab behind its own IOMMU,
 * follow the mappings. The modules are those of vdpa.test.
 */
import t from 'tap';
import { vdpaParents } from '../../../bench/peers/vdpa-parents.ts';
import { buildGuest } from '../../../src/guest/guests.ts';
import { CARD, VfioLab } from '../../support/rigs/vfio-lab.ts';

// Emulation takes its time on a busy host; a hang is the runner's to see.
t.setTimeout(1_800_000);

const DISK = '0000:00:14.0';
const { kernelVersion } = await buildGuest('lab');
const modules = await vdpaParents(kernelVersion);
const lab = await VfioLab.boot([
  ...['-drive', 'driver=null-co,size=64M,read-zeroes=on,if=none,id=null', '-device'],
  'virtio-blk-pci,drive=null,disable-legacy=on,iommu_platform=on,ats=on,page-per-vq=on,addr=0x14',
]);
t.teardown(() => lab.close());
await lab.sh('/run/nodevmm/busybox modprobe -a vhost_vdpa vhost_iotlb');
for (const module of modules) await lab.sh(`/run/nodevmm/busybox insmod ${module}`);

const MACHINE = `const own = async (name) => {
  const { iommu } = await vm.inspect();
  const { domain, bytes, faults } = iommu.endpoints.find(({ device }) => device === name);
  return [domain !== null, bytes > 0 && bytes < 64 << 20, faults].join();
};
const reboot = async () => {
  const rebooted = once(vm, 'reboot');
  vm.spawn(['reboot', '-f']).exit.catch(() => {});
  await rebooted;
  await vm.ready();
};
const faults = () => sh('dmesg | grep -c "fault from" || true');
`;

t.test('a simulated disk', async (t) => {
  const found = await lab.steps(`
const disks = [{ vdpa: 'auto', mgmtdev: 'vdpasim_blk', iommu: 'on' }];
const { vm, sh } = await boot([], '', { iommu: true, disks });
${MACHINE}
const verify = (size) => 'fio --name=v --filename=/dev/vda --size=' + size + ' --rw=randwrite --bs=16k --direct=1 --ioengine=libaio ' +
  '--iodepth=4 --verify=crc32c --output-format=terse | cut -d ";" -f 5';
report('fio', await sh(verify('2m')));
report('reach', await own('blk0'));
await vm.pause();
await vm.resume();
report('after a pause', await sh(verify('1m')));
await reboot();
report('after a reboot', await sh(verify('1m')));
report('faults', await faults());
await vm.close();
`);
  for (const step of ['fio', 'after a pause', 'after a reboot'])
    t.equal(found.get(step), '0', step);
  t.equal(found.get('reach'), 'true,true,0', 'a domain, a part of guest RAM, no faults');
  t.equal(found.get('faults'), '0');
  t.equal(found.get('log'), undefined);
});

t.test('hardware: a card, and a disk', async (t) => {
  for (const address of [CARD, DISK]) {
    const device = `/sys/bus/pci/devices/${address}`;
    await lab.sh(`echo vp-vdpa >${device}/driver_override
      if [ -e ${device}/driver ]; then echo ${address} >${device}/driver/unbind; fi
      echo ${address} >/sys/bus/pci/drivers/vp-vdpa/bind`);
  }
  const found = await lab.steps(`
const auto = (address) => ({ vdpa: 'auto', mgmtdev: 'pci/' + address, iommu: 'on' });
const { vm, sh } = await boot([], '', { iommu: true, nets: [auto('${CARD}')], disks: [auto('${DISK}')] });
${MACHINE}
report('ping', await sh(PING));
report('disk', await sh('dd if=/dev/zero of=/dev/vda bs=64k count=32 oflag=direct; dd if=/dev/vda bs=64k count=32 iflag=direct | wc -c'));
report('reach', (await own('net0')) + ' ' + (await own('blk0')));
report('locked', Number(locked()) < 64 << 10);
await reboot();
report('ping after', await sh(PING));
report('faults', await faults());
await vm.close();
report('unlocked', locked());
`);
  t.match(found.get('ping'), / 0% packet loss/);
  t.match(found.get('disk'), /2097152/);
  t.equal(found.get('reach'), 'true,true,0 true,true,0');
  t.equal(found.get('locked'), 'true', 'a part of guest RAM');
  t.match(found.get('ping after'), / 0% packet loss/);
  t.equal(found.get('faults'), '0');
  t.equal(found.get('unlocked'), '0');
  t.equal(found.get('log'), undefined);
});
