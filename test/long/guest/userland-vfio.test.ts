/** A driver in the guest's userland: DPDK's virtio PMD on vfio-pci, behind the IOMMU. */
import t from 'tap';
import { PREPARE, take } from '../../../bench/subjects/userland.ts';
import { boxesIn, drawingOf } from '../../support/rigs/drawing.ts';
import { bootGuest, guestShell } from '../../support/rigs/guest.ts';
import {
  addressesIn,
  GuestTestpmd,
  giveToLinux,
  pingFromHost,
  TESTPMD_MACHINE,
} from '../../support/rigs/guest-testpmd.ts';

t.test('testpmd reaches what it has mapped, and gives the device back', async (t) => {
  const nets = [{ hostAddress: '10.0.0.1/24' }];
  const machine = { ...TESTPMD_MACHINE, nets, iommu: true };
  await using vm = await bootGuest({ image: 'tools', machine });
  await guestShell(vm, PREPARE);
  const [address = ''] = await addressesIn(vm, nets.length);
  await guestShell(vm, take(address, 'vfio-pci'));
  // The addresses of its process may lie beyond the IOMMU's input range.
  const testpmd = new GuestTestpmd(vm, address, '', [], ['--iova-mode=pa']);
  await testpmd.ask('');
  await testpmd.ask('start');
  t.match(await pingFromHost('10.0.0.2'), / 0% packet loss/);
  t.same(boxesIn(await drawingOf(vm, 'net0'), 'guestKernel'), ['vfio-pci']);
  t.equal(await testpmd.quit(), 0);
  await guestShell(vm, giveToLinux(address, 0));
  t.match(await pingFromHost('10.0.0.3'), / 0% packet loss/, 'Linux has it back');
  t.equal(await guestShell(vm, 'dmesg | grep -c "fault from" || true'), '0');
});
