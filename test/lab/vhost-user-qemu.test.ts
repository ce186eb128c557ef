/**
 * `nodevmm serve` under another VMM: one QEMU guest whose disk, network card, entropy source and
 * shared folder are nodevmm's. QEMU emulates the processor, so that it runs on any host.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { AgentClient } from '../../src/agent/client.ts';
import { buildGuest } from '../../src/guest/guests.ts';
import { sha256 } from '../support/rigs/files.ts';
import { programPath, tapReason } from '../support/rigs/host.ts';

const PROGRAM = fileURLToPath(new URL('../../bundle/bin/main.js', import.meta.url));
const QEMU = 'qemu-system-x86_64';
const MEMORY = '256M';
const DISK_BYTES = 4 * 2 ** 20;
const HOST = '10.199.77.1';
const GUEST = '10.199.77.2';
const RING_PACKED = 34;

// Emulation takes its time on a busy host; a hang is the runner's to see.
t.setTimeout(600_000);

const folder = mkdtempSync(join(tmpdir(), 'vhost-user-qemu-'));
const children: ChildProcess[] = [];
t.teardown(async () => {
  // QEMU first: its backends leaving would be news to it.
  for (const child of children.reverse()) {
    const closed = child.exitCode ?? child.signalCode ?? once(child, 'close');
    child.kill('SIGTERM');
    await closed;
  }
  rmSync(folder, { recursive: true });
});

const socket = (name: string): string => join(folder, `${name}.sock`);
const complaints: string[] = [];

async function serve(name: string, ...args: string[]): Promise<ChildProcess> {
  const argv = [PROGRAM, 'serve', ...args, '--socket', socket(name)];
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'ignore', 'pipe'] });
  children.push(child);
  child.stderr?.on('data', (chunk: Buffer) => complaints.push(String(chunk)));
  while (!existsSync(socket(name)) && child.exitCode === null) await delay(20);
  return child;
}

/** Starts QEMU. Resolves with the stream of the guest's agent. */
async function boot(kernel: string, initrd: string): Promise<Socket> {
  const server = createServer();
  server.listen(socket('agent'));
  await once(server, 'listening');
  const device = (name: string, options: string): string[] => [
    // Comes back when the backend does.
    ...[
      '-chardev',
      `socket,id=${name},path=${socket(name)}${name === 'blk' ? ',reconnect=1' : ''}`,
    ],
    ...options.split(' '),
  ];
  const qemu = spawn(
    programPath(QEMU),
    [
      ...['-accel', 'tcg,thread=multi', '-cpu', 'max', '-M', 'q35,memory-backend=ram'],
      ...['-m', MEMORY, '-object', `memory-backend-memfd,id=ram,size=${MEMORY},share=on`],
      ...['-display', 'none', '-nodefaults', '-no-reboot', '-kernel', kernel, '-initrd', initrd],
      ...['-append', `quiet panic=-1 nodevmm.shell=0 nodevmm.ip=${GUEST}/24`],
      ...['-device', 'virtio-serial-pci', '-chardev', `socket,id=agent,path=${socket('agent')}`],
      ...['-device', 'virtserialport,chardev=agent,name=org.nodevmm.agent'],
      ...device('blk', '-device vhost-user-blk-pci,chardev=blk,packed=on,num-queues=2'),
      ...device('rng', '-device vhost-user-rng-pci,chardev=rng'),
      ...device('fs', '-device vhost-user-fs-pci,chardev=fs,tag=host'),
      // QEMU 7.2 without KVM dies when the driver unmasks a vector of its vhost-user-net.
      ...device('net', '-netdev vhost-user,id=n0,chardev=net'),
      ...['-device', 'virtio-net-pci,netdev=n0,vectors=0,romfile='],
    ],
    { stdio: ['ignore', 'ignore', 'inherit'] },
  );
  children.push(qemu);
  const ended = once(qemu, 'exit').then(([status, signal]) => {
    throw new Error(`QEMU ended with ${signal ?? status}`);
  });
  ended.catch(() => {});
  const [stream] = (await Promise.race([once(server, 'connection'), ended])) as [Socket];
  server.close();
  return stream;
}

const skip = tapReason();
t.test(
  'disk, network, entropy and a shared folder of nodevmm in a guest of QEMU',
  { skip },
  async (t) => {
    const disk = join(folder, 'disk.raw');
    const content = randomBytes(DISK_BYTES);
    writeFileSync(disk, content);
    let blk = await serve('blk', 'blk', `${disk},queues=2`);
    await serve('rng', 'rng');
    const shared = join(folder, 'shared');
    mkdirSync(shared);
    writeFileSync(join(shared, 'from-host'), content);
    await serve('fs', 'fs', shared);
    await serve('net', 'net', `auto,address=${HOST}/24`);
    const { kernel, initrd } = await buildGuest('minimal');
    using agent = new AgentClient(await boot(kernel, initrd));
    const run = async (script: string): Promise<string> => {
      const { stdout, stderr, exitCode } = await agent.exec(['sh', '-c', script]);
      t.equal(exitCode, 0, `${script}: ${stderr}`);
      return stdout.toString().trim();
    };
    const dd = 'dd bs=64k 2>/dev/null';
    t.equal(
      (await run(`${dd} if=/dev/vda iflag=direct | sha256sum`)).split(' ')[0],
      sha256(content),
      'the guest reads the file',
    );
    const written = await run(
      `${dd} if=/dev/urandom of=/dev/vda count=16 oflag=direct conv=fsync; ${dd} if=/dev/vda count=16 iflag=direct | sha256sum`,
    );
    const changed = readFileSync(disk).subarray(0, 2 ** 20);
    t.equal(written.split(' ')[0], sha256(changed), 'and writes it');
    const features = await run('cat /sys/block/vda/device/features');
    t.equal(features[RING_PACKED], '1', 'by packed rings');
    t.equal(await run('ls /sys/block/vda/mq'), '0', 'one CPU uses one of the queues');
    t.match(await run(`ping -c 5 -i 0.2 ${HOST}`), /5 packets transmitted, 5 packets received/);
    t.match(await run(`ping -c 3 -i 0.2 -s 1400 ${HOST}`), /3 packets received/);
    t.match(await run('cat /sys/class/misc/hw_random/rng_current'), /^virtio_rng/);
    t.equal(await run('dd if=/dev/hwrng bs=1024 count=8 2>/dev/null | wc -c'), '8192');
    const copied = await run(
      'modprobe virtiofs; mkdir /s && mount -t virtiofs host /s && cp /s/from-host /s/copy && umount /s',
    );
    t.equal(copied, '');
    t.equal(sha256(readFileSync(join(shared, 'copy'))), sha256(content), 'files go both ways');
    t.equal(blk.exitCode, null);
    // Killed under four writers; QEMU's record shows what is in flight.
    await run('dd if=/dev/urandom of=/tmp/data bs=64k count=64 2>/dev/null');
    const stamp = statSync(disk).mtimeMs;
    const writing = run(`for i in 0 1 2 3; do
      dd if=/tmp/data of=/dev/vda bs=4k count=256 skip=$((i * 256)) seek=$((i * 256)) oflag=direct 2>/dev/null &
    done; wait; echo written`);
    while (statSync(disk).mtimeMs === stamp) await delay(1);
    const exited = once(blk, 'exit');
    blk.kill('SIGKILL');
    await exited;
    blk = await serve('blk', 'blk', `${disk},queues=2`);
    t.equal(await writing, 'written');
    const wanted = (await run('sha256sum < /tmp/data')).split(' ')[0];
    t.equal(sha256(readFileSync(disk)), wanted, 'what was written is in the file');
    t.equal((await run(`${dd} if=/dev/vda iflag=direct | sha256sum`)).split(' ')[0], wanted);
    t.notMatch(await run('dmesg'), /is not a head|I\/O error/);
    t.same(
      complaints.filter((text) => !text.includes('listening on')),
      [],
      'no complaints',
    );
  },
);
