/** A driver in the guest's userland: DPDK's virtio PMD on uio_pci_generic, next to Linux's own. */
import t from 'tap';
import { PREPARE, take } from '../../../bench/subjects/userland.ts';
import type { NetOptions } from '../../../src/index.ts';
import { boxesIn, drawingOf, stepsOf } from '../../support/rigs/drawing.ts';
import { bootGuest, guestShell } from '../../support/rigs/guest.ts';
import {
  addressesIn,
  GuestTestpmd,
  giveToLinux,
  pingFromHost,
  TESTPMD_MACHINE,
} from '../../support/rigs/guest-testpmd.ts';

const rings: readonly (readonly [name: string, net: NetOptions, args: readonly string[]])[] = [
  ['split', { ring: {} }, ['']],
  ['split, vectorized, in-order', { ring: { inOrder: true } }, ['vectorized=1']],
  ['packed', { ring: { packed: true } }, ['']],
  ['two queue pairs', { queues: 2 }, ['', '--rxq=2', '--txq=2']],
];

t.test('testpmd drives every kind of ring, and gives the device back', async (t) => {
  const nets = rings.map(([, net], index) => ({ hostAddress: `10.0.${index}.1/24`, ...net }));
  await using vm = await bootGuest({ image: 'tools', machine: { ...TESTPMD_MACHINE, nets } });
  await guestShell(vm, PREPARE);
  for (const [index, address] of (await addressesIn(vm, rings.length)).entries()) {
    const [name = '', , [device, ...args] = []] = rings[index] ?? [];
    await t.test(name, async (t) => {
      await guestShell(vm, take(address));
      const testpmd = new GuestTestpmd(vm, address, device, args);
      await testpmd.ask('');
      await testpmd.ask('start');
      t.match(await pingFromHost(`10.0.${index}.2`), / 0% packet loss/);
      const drawn = await drawingOf(vm, `net${index}`);
      t.match(stepsOf(drawn), ['rings guestUser vmm: shared memory'], 'drawn as it is');
      t.same(boxesIn(drawn, 'guestKernel'), ['uio_pci_generic']);
      if (index === 0) {
        await testpmd.ask('stop');
        await testpmd.ask('port stop all');
        await testpmd.ask('port start all');
        await testpmd.ask('mac_addr add 0 02:00:00:00:00:77');
        t.match(
          await testpmd.ask('show port 0 macs', /Number of MAC[\s\S]*testpmd> /),
          /02:00:00:00:00:77/i,
        );
        await testpmd.ask('start');
        t.match(await pingFromHost(`10.0.${index}.2`), / 0% packet loss/, 'stopped and started');
      }
      t.match(
        await testpmd.ask('show port stats all', /RX-packets: *\d[\s\S]*testpmd> /),
        /RX-packets: *[1-9]/,
      );
      t.equal(await testpmd.quit(), 0);
      const interface_ = await guestShell(vm, giveToLinux(address, index));
      t.match(
        await pingFromHost(`10.0.${index}.3`),
        / 0% packet loss/,
        `Linux has it back: ${interface_}`,
      );
    });
  }
});
