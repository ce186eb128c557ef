/**
 * Devices that other processes serve, by backends that others wrote: a disk of
 * qemu-storage-daemon, also by its device ID alone; a network interface of DPDK's testpmd; files of
 * virtiofsd. All in one guest.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { messageOf } from '../../src/host/errors.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { boxesIn, drawingOf, stepsOf } from '../support/rigs/drawing.ts';
import { sha256 } from '../support/rigs/files.ts';
import { createGuest, exitsOf, guestShell } from '../support/rigs/guest.ts';
import { programPath, untilListening } from '../support/rigs/host.ts';

const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-vhost-user-'));
const at = (name: string): string => path.join(folder, name);
const children: ChildProcess[] = [];
t.teardown(() => {
  for (const child of children) child.kill('SIGKILL');
  rmSync(folder, { recursive: true });
});

/** Starts a program, and waits until it listens. */
async function backend(
  sockets: readonly string[],
  command: string,
  args: readonly string[],
): Promise<ChildProcess> {
  for (const socket of sockets) rmSync(socket, { force: true });
  const child = spawn(programPath(command), args, { stdio: ['pipe', 'ignore', 'pipe'] });
  children.push(child);
  let output = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    output = (output + chunk.toString()).slice(-2000);
  });
  for (const socket of sockets) {
    await untilListening(socket, child).catch((error) => {
      throw new Error(`${messageOf(error)}: ${output}`);
    });
  }
  return child;
}

const DISK_SIZE = 16 * MiB;
const image = at('disk.raw');
const other = at('other.raw');
writeFileSync(image, '');
truncateSync(image, DISK_SIZE);
writeFileSync(other, randomBytes(MiB));
const files = at('files');
mkdirSync(files);
const fromHost = randomBytes(MiB);
writeFileSync(path.join(files, 'from-host'), fromHost);

const exported = (id: string, queues: number): string[] => [
  '--export',
  `type=vhost-user-blk,id=e${id},node-name=${id},writable=on,num-queues=${queues},addr.type=unix,addr.path=${at(`${id}.sock`)}`,
];
const disk = (): Promise<ChildProcess> =>
  backend([at('disk.sock')], 'qemu-storage-daemon', [
    ...['--blockdev', `driver=file,node-name=disk,filename=${image}`],
    ...exported('disk', 2),
  ]);

let storage = await disk();
await backend([at('other.sock')], 'qemu-storage-daemon', [
  ...['--blockdev', `driver=file,node-name=other,filename=${other}`],
  ...exported('other', 1),
]);
/** It ends with its frontend. */
const folderServer = (): Promise<ChildProcess> =>
  backend([at('fs.sock')], 'virtiofsd', [
    `--socket-path=${at('fs.sock')}`,
    ...['-o', `source=${files},cache=auto,sandbox=chroot`],
  ]);
await folderServer();
const packetServer = (): Promise<ChildProcess> =>
  backend([at('net.sock')], 'dpdk-testpmd', [
    // Two threads that may share one processor.
    ...['--lcores', '(0-1)@0', '--no-huge', '-m', '128', '--no-pci', '--no-telemetry'],
    ...['--file-prefix', path.basename(folder), `--vdev=net_vhost0,iface=${at('net.sock')}`],
    ...['--', '-i', '--forward-mode=icmpecho', '--no-mlockall'],
    ...['--total-num-mbufs=4096'],
  ]);
let testpmd = await packetServer();

const vm = await createGuest({
  image: 'tools',
  machine: {
    cpus: 2,
    disks: [{ vhostUser: { socket: at('disk.sock') } }],
    devices: [{ vhostUser: { socket: at('other.sock') }, deviceId: 2, configSize: 36 }],
    fileSystems: [{ vhostUser: { socket: at('fs.sock') }, tag: 'host' }],
    nets: [{ vhostUser: { socket: at('net.sock') }, mac: '52:54:00:00:00:07' }],
  },
});
t.teardown(() => vm.close());
await vm.start();
await vm.ready();
const logs: string[] = [];
vm.on('log', (line) => logs.push(line));
const sh = (script: string): Promise<string> => guestShell(vm, script);
await sh('modprobe virtio_blk; until [ -b /dev/vda ] && [ -b /dev/vdb ]; do sleep 0.1; done');

t.test('they are at the requested path, and stay there', async (t) => {
  for (const name of ['blk0', 'virtio2-0', 'fs0', 'net0']) {
    t.equal(vm.datapaths.get(name), 'vhost-user', name);
  }
  const drawn = await drawingOf(vm, 'blk0');
  t.match(stepsOf(drawn), ['rings guestKernel process: shared memory']);
  t.same(boxesIn(drawn, 'process'), ['backend']);
  await t.rejects(vm.moveDatapath('net0', 'vhost'), { code: 'E_DATAPATH' });
});

t.test(
  'a disk of qemu-storage-daemon: size, queues, data, and no exit for a request',
  async (t) => {
    const shown = await sh('cat /sys/block/vda/size; ls /sys/block/vda/mq | wc -l');
    t.equal(shown, `${DISK_SIZE / 512}\n2`);
    await sh(
      'fio --name=v --filename=/dev/vda --rw=randwrite --bs=4k --size=128k --iodepth=4 --direct=1 --ioengine=libaio --verify=crc32c',
    );
    const before = await exitsOf(vm);
    await sh('dd if=/dev/vda of=/dev/null bs=4k count=128 iflag=direct 2>/dev/null');
    // The agent's console and timers exit, requests do not.
    const exits = (await exitsOf(vm)) - before;
    t.ok(exits < 128, `${exits} exits for 128 requests`);
  },
);

t.test('a disk by its device ID', async (t) => {
  t.equal((await sh('sha256sum < /dev/vdb')).slice(0, 64), sha256(readFileSync(other)));
});

t.test('files of virtiofsd, both ways', async (t) => {
  await sh('mkdir -p /mnt; modprobe virtiofs || true; mount -t virtiofs host /mnt');
  t.equal((await sh('sha256sum < /mnt/from-host')).slice(0, 64), sha256(fromHost));
  await sh('cp /mnt/from-host /mnt/from-guest; umount /mnt');
  t.equal(sha256(readFileSync(path.join(files, 'from-guest'))), sha256(fromHost));
});

t.test('a network interface of DPDK', async (t) => {
  // It polls from here on.
  testpmd.stdin?.write('start\n');
  await sh('modprobe virtio_net; until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done');
  t.equal(await sh('cat /sys/class/net/eth0/address'), '52:54:00:00:00:07');
  await sh('ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up');
  t.match(await sh('ping -c 3 10.9.0.1'), / 0% packet loss/);
  t.match(await sh('ping -c 3 -s 1400 10.9.0.1'), / 0% packet loss/);
  testpmd.stdin?.write('stop\n');
});

t.test('a backend that crashes under load is set up again when it is back', async (t) => {
  await sh('dd if=/dev/urandom of=/tmp/data bs=1M count=1 2>/dev/null');
  const before = statSync(image).mtimeMs;
  const writing = sh('dd if=/tmp/data of=/dev/vda bs=4k oflag=direct 2>/dev/null; echo written');
  while (statSync(image).mtimeMs === before) await delay(10);
  const exited = once(storage, 'exit');
  storage.kill('SIGKILL');
  await exited;
  storage = await disk();
  t.equal(await writing, 'written');
  await sh('dd if=/dev/vda bs=64k count=16 iflag=direct 2>/dev/null | cmp - /tmp/data');
  const lines = logs.filter((line) => line.startsWith('blk0: the backend'));
  t.equal(lines.length, 2);
  t.match(lines[0], /closed the connection; waiting for it at/);
  t.match(lines[1], /the backend reconnected$/);
});

t.test('backends that get copies: behind an IOMMU, packed, every rule checked', async (t) => {
  await vm.close();
  await folderServer();
  // What one has stopped, it does not start for another guest.
  const exited = once(testpmd, 'exit');
  testpmd.kill('SIGKILL');
  await exited;
  testpmd = await packetServer();
  const share = 'shadow';
  await using copied = await createGuest({
    image: 'tools',
    machine: {
      cpus: 2,
      iommu: true,
      check: true,
      disks: [
        { vhostUser: { socket: at('disk.sock'), share }, queues: 1, ring: { packed: true } },
        { vhostUser: { socket: at('other.sock'), share } },
      ],
      fileSystems: [{ vhostUser: { socket: at('fs.sock'), share }, tag: 'host' }],
      nets: [{ vhostUser: { socket: at('net.sock'), share }, mac: '52:54:00:00:00:07' }],
    },
  });
  const breaches: string[] = [];
  copied.on('breach', ({ device, text }) => breaches.push(`${device}: ${text}`));
  await copied.start();
  await copied.ready();
  const run = (script: string): Promise<string> => guestShell(copied, script);
  await run('modprobe virtio_blk; until [ -b /dev/vda ] && [ -b /dev/vdb ]; do sleep 0.1; done');
  t.ok(Number(await run('ls /sys/kernel/iommu_groups | wc -l')) >= 4, 'all are behind it');
  t.equal((await run('sha256sum < /dev/vdb')).slice(0, 64), sha256(readFileSync(other)));
  await run(
    'fio --name=v --filename=/dev/vda --rw=randwrite --bs=4k-512k --size=4m --iodepth=4 --direct=1 --ioengine=libaio --verify=crc32c',
  );
  await run('mkdir -p /mnt; modprobe virtiofs || true; mount -t virtiofs host /mnt');
  t.equal((await run('sha256sum < /mnt/from-host')).slice(0, 64), sha256(fromHost));
  await run('cp /mnt/from-host /mnt/again; umount /mnt');
  t.equal(sha256(readFileSync(path.join(files, 'again'))), sha256(fromHost));
  testpmd.stdin?.write('start\n');
  await run('modprobe virtio_net; until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done');
  await run('ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up');
  t.match(await run('ping -c 3 -s 1400 10.9.0.1'), / 0% packet loss/);
  testpmd.stdin?.write('stop\n');
  await copied.holdQueue('blk0', '0');
  const reading = run(
    'dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null; echo read',
  );
  await copied.stepQueue('blk0', '0');
  await copied.releaseQueue('blk0', '0');
  t.equal(await reading, 'read');
  const drawn = await drawingOf(copied, 'blk0');
  const steps = stepsOf(drawn);
  t.equal(steps[0], 'rings guestKernel vmm: shared memory');
  t.ok(steps.includes('data vmm process: shared memory'), steps.join('; '));
  t.same(breaches, []);
});
