/** All devices behind the machine's IOMMU, with Linux's drivers: every address that a device gets is one that was mapped. */
import { once } from 'node:events';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import * as ring from '../../../src/abi/virtio-ring.ts';
import type { DiskOptions } from '../../../src/index.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { sha256, testFolder } from '../../support/rigs/files.ts';
import { bootGuest, DISK_BY_SERIAL, guestShell } from '../../support/rigs/guest.ts';

const folder = testFolder(t);
const at = (name: string): string => path.join(folder, name);
const HOST = '10.0.9.1';
const PING = `ping -c 2 -s 4000 -W 20 ${HOST} >/dev/null`;

function disk(serial: string, options: Omit<DiskOptions, 'path'>): DiskOptions {
  writeFileSync(at(serial), '');
  truncateSync(at(serial), 16 * MiB);
  return { path: at(serial), serial, ...options };
}

writeFileSync(at('data'), Buffer.alloc(3 * MiB, 'behind the IOMMU '));
const vm = await bootGuest({
  image: 'tools',
  append: 'nodevmm.ip=10.0.9.2/24',
  machine: {
    iommu: true,
    disks: [
      disk('split', { engine: 'sync' }),
      disk('packed', { engine: 'io_uring', ring: { packed: true } }),
      disk('memory', { transport: 'mmio' }),
    ],
    nets: [{ hostAddress: `${HOST}/24` }],
    fileSystems: [{ tag: 'shared', source: folder }],
    rng: { ring: { packed: true } },
  },
});
t.teardown(() => vm[Symbol.asyncDispose]());
const sh = (script: string): Promise<string> => guestShell(vm, DISK_BY_SERIAL + script);

t.test('each device is a group of its own, and has its driver', async (t) => {
  const groups = await sh('ls -d /sys/kernel/iommu_groups/*/devices/* | wc -l');
  const { devices } = await vm.inspect();
  const behind = devices.filter(({ features }) =>
    features.some(({ bit, negotiated }) => bit === ring.VIRTIO_F_ACCESS_PLATFORM && negotiated),
  );
  const names = ['console0', 'blk0', 'blk1', 'blk2', 'net0', 'fs0', 'rng0'];
  t.same(behind.map(({ name }) => name).sort(), [...names].sort());
  t.equal(groups.trim(), String(names.length));
  t.ok(
    devices.every(({ queues }) => queues.every(({ problem }) => problem === undefined)),
    'inspection finds the rings behind the IOMMU',
  );
});

t.test('disks keep what is written: split, packed, over MMIO', async (t) => {
  for (const serial of ['split', 'packed', 'memory']) {
    await sh(`
      d=/dev/$(disk ${serial})
      fio --name=v --filename=$d --rw=randwrite --bs=4k-64k --size=8M --direct=1 --ioengine=libaio --iodepth=8 \\
        --verify=crc32c --do_verify=1 --verify_fatal=1 --output=/tmp/fio-${serial}
      mkfs.ext4 -q -F $d && mount -t ext4 $d /mnt
      head -c 4000000 /dev/urandom >/mnt/random && sha256sum /mnt/random >/mnt/sum && umount /mnt
      mount -t ext4 $d /mnt && sha256sum -c /mnt/sum && umount /mnt`);
  }
  t.ok(readFileSync(at('packed')).some((byte) => byte !== 0));
});

t.test('network, shared folder, and entropy', async (t) => {
  await sh(PING);
  const sum = await sh(
    'mkdir -p /shared; mount -t virtiofs shared /shared; sha256sum </shared/data',
  );
  t.match(sum, sha256(readFileSync(at('data'))));
  await sh('cp /shared/data /shared/copy; sync');
  t.equal(sha256(readFileSync(at('copy'))), sha256(readFileSync(at('data'))));
  t.equal((await sh('head -c 100 /dev/hwrng | wc -c')).trim(), '100');
});

t.test('drivers are unbound and bound again without a fault', async (t) => {
  await sh(`
    umount /shared
    for round in 1 2 3; do
      for d in /sys/bus/virtio/drivers/virtio_blk/virtio* /sys/bus/virtio/drivers/virtiofs/virtio*; do
        n=\${d##*/} driver=\${d%/*}
        echo $n >$driver/unbind; echo $n >$driver/bind
      done
    done
    dd if=/dev/$(disk packed) of=/dev/null bs=1M count=4 iflag=direct 2>/dev/null
    mount -t virtiofs shared /shared && cmp /shared/data /shared/copy && umount /shared
    ${PING}`);
  const faults = await sh('dmesg | grep -i "fault from" || true');
  t.equal(faults.trim(), '');
});

t.test('pause and reboot', async (t) => {
  t.equal(vm.state, 'running');
  await vm.pause();
  await vm.resume();
  await sh(PING);
  const rebooted = once(vm, 'reboot');
  vm.spawn(['reboot', '-f']).exit.catch(() => {});
  await rebooted;
  await vm.ready();
  await sh(PING);
  await sh(`dd if=/dev/$(disk split) of=/dev/null bs=1M count=4 iflag=direct 2>/dev/null`);
});
