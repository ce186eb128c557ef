/** Hotplug on 4 vCPUs for longer: a storm of devices and CPUs, pulled disks under I/O, reboots. */
import { once } from 'node:events';
import { truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import type { VirtualMachine } from '../../../src/index.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { bootGuest, DISK_BY_SERIAL, guestShell } from '../../support/rigs/guest.ts';

const folder = testFolder(t);

function diskFile(name: string): string {
  const file = path.join(folder, `${name}.raw`);
  writeFileSync(file, '');
  truncateSync(file, 32 * MiB);
  return file;
}

const shellOf =
  (vm: VirtualMachine) =>
  (script: string): Promise<string> =>
    guestShell(vm, DISK_BY_SERIAL + script);

for (const packed of [false, true]) {
  const name = packed ? 'packed' : 'split';
  t.test(`a storm of devices and CPUs while a disk is busy, ${name}`, async (t) => {
    const busy = { path: diskFile(`busy-${name}`), serial: 'busy', queues: 4, ring: { packed } };
    await using vm = await bootGuest({
      image: 'tools',
      machine: { cpus: 4, maxCpus: 6, disks: [busy] },
    });
    const sh = shellOf(vm);
    const fio = sh(`touch /busy; while [ -e /busy ]; do
        fio --output-format=terse --name=busy --filename=/dev/$(disk busy) --direct=1 --ioengine=libaio \
          --iodepth=16 --rw=randrw --bsrange=512-16k --size=2M --verify=crc32c --verify_fatal=1
      done | cut -d ';' -f 5 | sort -u`);
    fio.catch(() => {});
    const file = diskFile(`late-${name}`);
    for (let round = 0; round < 15; round++) {
      const added = await vm.addDevice({
        disks: [{ path: file, serial: 'late', queues: 4, ring: { packed } }],
      });
      await vm.setCpus(6);
      await sh('dd if=/dev/$(disk late) of=/dev/null bs=64k count=8 iflag=direct 2>/dev/null');
      await sh('until [ "$(grep -c ^processor /proc/cpuinfo)" = 6 ]; do sleep 0.1; done');
      await vm.removeDevice(added);
      await vm.setCpus(4);
    }
    await sh('rm /busy');
    t.equal(await fio, '0');
    t.equal(await sh('dmesg | grep -cE "WARNING|BUG|Call Trace" || true'), '0');
  });
}

t.test('disks are pulled out under I/O, and the rest of the guest continues', async (t) => {
  const disks = [{ path: diskFile('kept'), serial: 'kept' }];
  await using vm = await bootGuest({ image: 'tools', machine: { cpus: 2, disks } });
  const sh = shellOf(vm);
  const pulled = await vm.addDevice({ disks: [{ path: diskFile('pulled'), serial: 'pulled' }] });
  await sh(`d=$(disk pulled); (fio --name=pulled --filename=/dev/$d --direct=1 --ioengine=libaio --iodepth=16 \
      --rw=randrw --bs=4k --time_based --runtime=1000 >/dev/null 2>&1 &)
    until grep -q [1-9] /sys/block/$d/inflight; do sleep 0.1; done`);
  await vm.removeDevice(pulled, { surprise: true, timeout: 0 });
  t.notOk(vm.datapaths.has(pulled));
  t.equal(
    await sh(`fio --output-format=terse --name=kept --filename=/dev/$(disk kept) --direct=1 --rw=randrw \
      --bs=4k --size=1M --verify=crc32c --verify_fatal=1 | cut -d ';' -f 5`),
    '0',
  );
});

t.test('what was added is there after a reboot, with as many CPUs', async (t) => {
  await using vm = await bootGuest({ image: 'tools', machine: { cpus: 1, maxCpus: 4 } });
  await vm.addDevice({ disks: [{ path: diskFile('stays'), serial: 'stays' }] });
  await vm.setCpus(3);
  const rebooted = once(vm, 'reboot');
  vm.spawn(['reboot', '-f']).exit.catch(() => {});
  await rebooted;
  await vm.ready();
  const sh = shellOf(vm);
  t.equal(await sh('disk stays'), 'vda');
  t.equal(await sh('grep -c ^processor /proc/cpuinfo'), '3');
  await vm.removeDevice('blk0');
  await vm.setCpus(1);
  t.equal(await sh('ls /sys/block | grep -c vd || true; grep -c ^processor /proc/cpuinfo'), '0\n1');
});
