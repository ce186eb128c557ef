/** Devices that come and go in one guest with Linux's own drivers, while another disk is busy. */
import { once } from 'node:events';
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { MiB } from '../../src/memory/ram-layout.ts';
import { sha256, testFolder } from '../support/rigs/files.ts';
import { bootGuest, DISK_BY_SERIAL, guestShell } from '../support/rigs/guest.ts';

const DISK_SIZE = 32 * MiB;
const folder = testFolder(t);

function diskFile(name: string): string {
  const file = path.join(folder, `${name}.raw`);
  writeFileSync(file, '');
  truncateSync(file, DISK_SIZE);
  return file;
}

const vm = await bootGuest({
  image: 'tools',
  machine: { cpus: 2, maxCpus: 4, disks: [{ path: diskFile('busy'), serial: 'busy', queues: 2 }] },
});
t.teardown(() => vm[Symbol.asyncDispose]());
const sh = (script: string): Promise<string> => guestShell(vm, DISK_BY_SERIAL + script);
const logs: string[] = [];
vm.on('log', (line) => logs.push(line));
/** The guest's slots with a device. */
const slots = (): Promise<string> =>
  sh('grep -l 1 /sys/bus/pci/slots/*/power | cut -d / -f 6 | sort -n');
const before = await slots();

/** Until the test stops it: what it wrote is verified. */
const busy = sh(`touch /busy; while [ -e /busy ]; do
    fio --output-format=terse --name=busy --filename=/dev/$(disk busy) --direct=1 --ioengine=libaio \
      --iodepth=16 --rw=randrw --bsrange=512-16k --size=2M --verify=crc32c --verify_fatal=1
  done | cut -d ';' -f 5 | sort -u`);
busy.catch(() => {});

t.test('a disk comes, is used, and is removed', async (t) => {
  for (const ring of [{}, { packed: true }]) {
    const file = diskFile('late');
    const name = await vm.addDevice({ disks: [{ path: file, serial: 'late', ring }] });
    t.equal(name, 'blk1');
    const sum = await sh(`d=/dev/$(disk late)
      mkfs.ext4 -q $d; mount -t ext4 $d /mnt
      head -c 1m /dev/urandom >/mnt/file; umount /mnt
      sha256sum <$d`);
    await vm.removeDevice(name);
    await sh('[ "$(ls /sys/block | grep -c vd)" = 1 ]');
    t.equal(`${sha256(readFileSync(file))}  -`, sum);
  }
  t.equal(await slots(), before);
});

t.test('a network comes, and moves to vhost', async (t) => {
  const name = await vm.addDevice({ nets: [{ hostAddress: '192.168.77.1/24' }] });
  await sh(`until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
    ip address add 192.168.77.2/24 dev eth0; ip link set eth0 up
    until ping -c 1 -W 1 192.168.77.1; do :; done`);
  await vm.moveDatapath(name, 'vhost');
  await sh('until ping -c 1 -W 1 192.168.77.1; do :; done');
  await vm.removeDevice(name);
  await sh('[ ! -e /sys/class/net/eth0 ]');
  t.match(logs.splice(0), [/^net0: vhost serves its queues: neither trace nor check/]);
});

t.test('a shared folder comes, is mounted, and is removed', async (t) => {
  const source = path.join(folder, 'shared');
  mkdirSync(source);
  writeFileSync(path.join(source, 'file'), 'from the host');
  const name = await vm.addDevice({ fileSystems: [{ tag: 'late', source }] });
  const text = await sh(`until mount -t virtiofs late /mnt 2>/dev/null; do sleep 0.1; done
    cat /mnt/file; echo from the guest >/mnt/other; umount /mnt`);
  t.equal(text, 'from the host');
  t.equal(readFileSync(path.join(source, 'other'), 'latin1'), 'from the guest\n');
  await vm.removeDevice(name);
});

t.test('CPUs come and go, and the guest takes them offline and online itself', async (t) => {
  const cpus = (count: number): Promise<string> =>
    sh(`until [ "$(grep -c ^processor /proc/cpuinfo)" = ${count} ]; do sleep 0.1; done`);
  await vm.setCpus(4);
  await cpus(4);
  t.equal(await sh('taskset 8 grep Cpus_allowed_list /proc/self/status'), 'Cpus_allowed_list:\t3');
  await sh('echo 0 >/sys/devices/system/cpu/cpu3/online');
  await cpus(3);
  await sh('echo 1 >/sys/devices/system/cpu/cpu3/online');
  await cpus(4);
  await vm.setCpus(1);
  await cpus(1);
  t.equal(await sh('ls -d /sys/devices/system/cpu/cpu[0-9]*'), '/sys/devices/system/cpu/cpu0');
  await vm.setCpus(2);
  await cpus(2);
});

t.test('what the guest ejects is gone, and comes back only as another device', async (t) => {
  await vm.addDevice({ rng: {} });
  t.same(logs.splice(0), []);
  const ejected = once(vm, 'log');
  // The guest looks into the slot when it comes to it.
  let slot: string | undefined;
  while (slot === undefined) {
    slot = (await slots()).split('\n').find((one) => !before.split('\n').includes(one));
  }
  await sh(`echo 0 >/sys/bus/pci/slots/${slot}/power`);
  await ejected;
  t.same(logs.splice(0), ['rng1: the guest ejected it']);
  t.notOk(vm.datapaths.has('rng1'));
  t.equal(await slots(), before);
});

t.test(
  'a disk under I/O is removed by force: its programs fail, the guest continues',
  async (t) => {
    const name = await vm.addDevice({ disks: [{ path: diskFile('forced'), serial: 'forced' }] });
    const fio =
      sh(`fio --output-format=terse --name=forced --filename=/dev/$(disk forced) --direct=1 \
    --ioengine=libaio --iodepth=16 --rw=randrw --bs=4k --time_based --runtime=100 >/out 2>&1 || echo failed`);
    await sh('until grep -q [1-9] /sys/block/$(disk forced)/inflight; do sleep 0.1; done');
    await vm.removeDevice(name, { surprise: true, timeout: 20_000 });
    t.equal(await fio, 'failed');
    t.equal(await slots(), before);
  },
);

t.test('a device that is not in use is pulled out without a word', async (t) => {
  const name = await vm.addDevice({ disks: [{ path: diskFile('pulled'), serial: 'pulled' }] });
  await sh('disk pulled');
  await vm.removeDevice(name, { surprise: true, timeout: 0 });
  await sh('while ls /sys/block/vd*/serial | xargs cat | grep -q pulled; do sleep 0.1; done');
  t.equal(await slots(), before);
  t.equal(await vm.addDevice({ disks: [{ path: diskFile('again'), serial: 'again' }] }), name);
  await sh('dd if=/dev/$(disk again) of=/dev/null bs=1M 2>/dev/null');
});

t.test('meanwhile nothing was lost, and the kernel complains about nothing', async (t) => {
  await sh('rm /busy');
  t.equal(await busy, '0');
  t.same(logs, []);
  const complaints = await sh(`dmesg -r | grep '^<[0-4]>' | cut -d ']' -f 2- || true`);
  t.same(
    // An emulated processor is late at times.
    complaints
      .split('\n')
      .filter((line) => !/I\/O error, dev vd|clocksource|hrtimer|^$/.test(line)),
    [],
  );
});
