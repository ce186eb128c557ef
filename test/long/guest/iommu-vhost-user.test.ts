/** A disk of another process behind the machine's IOMMU: the backend follows its mappings. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { bootGuest, DISK_BY_SERIAL, guestShell } from '../../support/rigs/guest.ts';
import { BUNDLE, untilListening } from '../../support/rigs/host.ts';

const folder = testFolder(t);
const file = path.join(folder, 'served.raw');
const socket = path.join(folder, 'socket');
writeFileSync(file, '');
truncateSync(file, 16 * MiB);
const server = spawn(
  process.execPath,
  [BUNDLE, 'serve', 'blk', `${file},serial=served`, '--socket', socket],
  { stdio: ['ignore', 'inherit', 'inherit'] },
);
t.teardown(() => server.kill());
await untilListening(socket, server);
const vm = await bootGuest({
  image: 'tools',
  machine: { memory: 512 * MiB, iommu: true, disks: [{ vhostUser: { socket }, iommu: 'on' }] },
});
t.teardown(() => vm.close());
const sh = (script: string): Promise<string> => guestShell(vm, script);
const verified = (): Promise<string> =>
  sh(`${DISK_BY_SERIAL}
    fio --name=v --filename=/dev/$(disk served) --rw=randwrite --bs=4k-32k --size=1M --direct=1 --ioengine=libaio \\
      --iodepth=4 --verify=crc32c --do_verify=1 --verify_fatal=1 --output=/tmp/fio
    dmesg | grep -i "fault from" || true`);

t.test('its backend reaches what the driver maps', async (t) => {
  t.equal(vm.datapaths.get('blk0'), 'vhost-user');
  const groups = await sh('ls -d /sys/kernel/iommu_groups/*/devices/* | wc -l');
  t.equal(groups, '3', 'console, disk, entropy');
  t.equal(await verified(), '', 'no fault');
});

t.test('a pause, and a reboot', async (t) => {
  await vm.pause();
  await vm.resume();
  t.equal(await verified(), '');
  const rebooted = once(vm, 'reboot');
  vm.spawn(['reboot', '-f']).exit.catch(() => {});
  await rebooted;
  await vm.ready();
  t.equal(await verified(), '');
});
