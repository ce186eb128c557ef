/** A machine with an IOMMU: groups, a disk on both sides of it, and no faults. More in test/long/guest/iommu.test.ts. */
import { once } from 'node:events';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import * as ring from '../../src/abi/virtio-ring.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { sha256, testFolder } from '../support/rigs/files.ts';
import { bootGuest, guestShell } from '../support/rigs/guest.ts';

const folder = testFolder(t);
const file = path.join(folder, 'disk.raw');
writeFileSync(file, '');
truncateSync(file, 2 * MiB);
const vm = await bootGuest({
  machine: { iommu: true, disks: [{ path: file, ring: { packed: true } }] },
});
t.teardown(() => vm[Symbol.asyncDispose]());
const sh = (script: string): Promise<string> => guestShell(vm, script);

t.test('each device has a group and translated addresses', async (t) => {
  const places = await sh('cd /sys/kernel/iommu_groups; ls -d */devices/*');
  t.match(places, /^0\/devices\/0000:00:0\d\.0\n1\/.*\n2\/[^\n]*$/);
  const { devices } = await vm.inspect();
  const behind = devices.filter(({ features }) =>
    features.some(({ bit, negotiated }) => bit === ring.VIRTIO_F_ACCESS_PLATFORM && negotiated),
  );
  t.same(behind.map(({ name }) => name).sort(), ['blk0', 'console0', 'rng0']);
  const queues = behind.flatMap((device) => device.queues);
  t.ok(
    queues.every(({ problem }) => problem === undefined),
    'their rings are found',
  );
});

t.test('what is written is in the file, before and after a reboot', async (t) => {
  const write = `head -c 2m /dev/urandom >/random; dd if=/random of=/dev/vda bs=64k conv=fsync 2>/dev/null
    sha256sum </random; ! dmesg | grep -q "fault from"`;
  t.match(await sh(write), sha256(readFileSync(file)));
  const rebooted = once(vm, 'reboot');
  vm.spawn(['reboot', '-f']).exit.catch(() => {});
  await rebooted;
  await vm.ready();
  t.match(await sh(write), sha256(readFileSync(file)));
});
