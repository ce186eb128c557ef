/**
 * A disk and a network interface by vDPA: the parents are our own VDUSE devices of the lab, behind vhost_vdpa. A pause, and
 * parents that end before the guest.
 */
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import t from 'tap';
import { VirtualMachine } from '../../src/index.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { boxesIn, drawingOf, stepsOf } from '../support/rigs/drawing.ts';
import { bootGuest, guestShell } from '../support/rigs/guest.ts';
import { ParentDisk, serveParent } from '../support/rigs/vdpa.ts';

const HOST = '10.99.0.1';
const parent = new ParentDisk();
const [[server, disk], [, net]] = await Promise.all([
  parent.serve('test-disk'),
  serveParent('test-net', 'net', `auto,address=${HOST}/24`),
]);
const behind = { guest: 'minimal', iommu: true, disks: [{ vdpa: disk, iommu: 'on' }] } as const;
const refused: unknown = await VirtualMachine.create(behind).catch((error) => error);
const vm = await bootGuest({
  machine: { memory: 256 * MiB, disks: [{ vdpa: disk }], nets: [{ vdpa: net }] },
});
t.teardown(() => vm.close());
const ping = (): Promise<string> => guestShell(vm, `ping -c 2 ${HOST}`);

t.test('a disk and an interface', async (t) => {
  t.equal(vm.datapaths.get('blk0'), 'vdpa');
  t.equal(vm.datapaths.get('net0'), 'vdpa');
  t.ok(await parent.exchanges(vm, 1));
  t.equal(await guestShell(vm, 'cat /sys/block/vda/size'), String((64 * MiB) / 512));
  await guestShell(vm, 'ip addr add 10.99.0.2/24 dev eth0; ip link set eth0 up');
  t.match(await ping(), / 0% packet loss/);
  const drawn = await drawingOf(vm, 'net0');
  t.match(stepsOf(drawn), ['rings guestKernel process: shared memory']);
  t.same(boxesIn(drawn, 'process'), ['VDUSE server'], 'by its place in sysfs');
});

t.test('what another machine cannot have', async (t) => {
  t.match(refused, { code: 'E_IOMMU', message: /VDUSE/ }, 'a process cannot follow an IOMMU');
  const second = VirtualMachine.create({ guest: 'minimal', disks: [{ vdpa: disk }] });
  await t.rejects(second, { code: 'E_VDPA', message: /is in use/ });
  const missing = VirtualMachine.create({ guest: 'minimal', disks: [{ vdpa: `${disk}0` }] });
  await t.rejects(missing, { code: 'E_VDPA', message: /this host has no/ });
});

t.test('a device that cannot be moved', async (t) => {
  for (const place of ['vhost', 'userspace'] as const) {
    await t.rejects(vm.moveDatapath('net0', place), {
      code: 'E_DATAPATH',
      message:
        /^net0 cannot leave its vDPA device, which has its features, configuration, and state$/,
    });
  }
});

t.test('they continue after a pause', async (t) => {
  await vm.pause();
  await vm.resume();
  t.ok(await parent.exchanges(vm, 2));
  t.match(await ping(), / 0% packet loss/);
});

t.test('a server that ends waits for the machine, which still answers', async (t) => {
  const ended = once(server, 'exit');
  server.kill('SIGTERM');
  t.equal(await guestShell(vm, 'echo alive'), 'alive');
  await vm.close();
  t.same(await ended, [0, null]);
  t.notOk(existsSync('/sys/bus/vdpa/devices/test-disk'));
});
