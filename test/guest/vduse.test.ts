/**
 * Disks of `nodevmm serve --vduse` and `nodevmm device mount` as the lab's own: its kernel's virtio_blk drives them, in both
 * formats of rings; a file system and fio use them; a killed server is replaced without an error; ended, nothing is left.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { packageFolder } from '../../src/host/package-folder.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { programPath } from '../support/rigs/host.ts';
import {
  HostDisk,
  hostDisks,
  loadModules,
  PROGRAM,
  run,
  verifiedWrites,
} from '../support/rigs/vduse.ts';

t.setTimeout(600_000);
const NAME = 'nodevmm-test';
// Loaded by another test in this lab, it would take the devices first.
spawnSync('/run/nodevmm/busybox', ['rmmod', 'vhost_vdpa']);
loadModules('vduse', 'virtio_vdpa', 'virtio_blk');
const host = new HostDisk(NAME);

/** A file of that many bytes is the same after another mount. */
function testFileSystem(t: Test, disk: string, size: number): void {
  run('mkfs.ext4', '-q', disk);
  const mount = join(host.folder, 'mnt');
  mkdirSync(mount, { recursive: true });
  run('mount', disk, mount);
  const bytes = readFileSync(process.execPath).subarray(0, size);
  writeFileSync(join(mount, 'file'), bytes);
  run('umount', mount);
  run('mount', disk, mount);
  t.ok(readFileSync(join(mount, 'file')).equals(bytes), 'a file, after another mount');
  run('umount', mount);
}

t.test('a disk with packed rings', async (t) => {
  host.clear();
  const { child, disk } = await host.serve('queues=2,packed=on');
  t.match(run('vdpa', 'dev', 'show', NAME), /type block mgmtdev vduse/);
  const [parent] = readdirSync(`/sys/bus/vdpa/devices/${NAME}`).filter((name) =>
    name.startsWith('virtio'),
  );
  const features = readFileSync(`/sys/bus/vdpa/devices/${NAME}/${parent}/features`, 'latin1');
  // VIRTIO_F_RING_PACKED, bit 34.
  t.equal(features[34], '1');
  testFileSystem(t, disk, 8 * MiB);
  t.match(run('fio', ...verifiedWrites(disk, 2, 8)), /err= 0/);
  child.kill('SIGTERM');
  t.same(await once(child, 'exit'), [0, null]);
  t.notOk(existsSync(`/sys/bus/vdpa/devices/${NAME}`), 'no vDPA device is left');
  t.notOk(existsSync(`/dev/vduse/${NAME}`), 'no VDUSE device is left');
  t.same(hostDisks(), []);
});

t.test('a disk in a page of TypeScript', async (t) => {
  // A driver for guests that is there first takes the device first.
  run('/run/nodevmm/busybox', 'rmmod', 'virtio_vdpa');
  run('/run/nodevmm/busybox', 'modprobe', 'vhost_vdpa');
  run('/run/nodevmm/busybox', 'modprobe', 'virtio_vdpa');
  const argv = [
    PROGRAM,
    'device',
    'mount',
    `${packageFolder}/docs/examples/computed-disk.ts,mib=32`,
  ];
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'inherit'] });
  t.teardown(() => child.kill('SIGKILL'));
  const [line] = await once(child.stdout, 'data');
  const disk = String(line).trim();
  t.match(disk, /^\/dev\/vd[a-z]$/);
  t.match(run('vdpa', 'dev', 'show', 'computed-disk'), /type block/);
  t.match(run('dd', `if=${disk}`, 'bs=512', 'skip=65535', 'status=none'), /^(sector 65535\n)+/);
  testFileSystem(t, disk, 4 * MiB);
  child.kill('SIGINT');
  t.same(await once(child, 'exit'), [0, null]);
  t.notOk(existsSync(disk));
  t.notOk(existsSync('/sys/bus/vdpa/devices/computed-disk'));
  t.notOk(existsSync('/dev/vduse/computed-disk'));
  run('/run/nodevmm/busybox', 'rmmod', 'vhost_vdpa');
});

t.test('a server that is killed under load is replaced without an error', async (t) => {
  const options = 'queues=1';
  host.clear();
  const { child: first, disk } = await host.serve(options);
  const fio = spawn(programPath('fio'), verifiedWrites(disk, 4, 8), {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const load = once(fio, 'exit');
  const failed = load.then(() => {
    throw new Error('fio ended');
  });
  failed.catch(() => {});
  const child = await host.replace(first, options, failed);
  t.same(await load, [0, null]);
  t.notMatch(run('dmesg'), /I\/O error|is not a head/);
  child.kill('SIGTERM');
  t.same(await once(child, 'exit'), [0, null]);
  t.notOk(existsSync(`/dev/vduse/${NAME}`));
});
