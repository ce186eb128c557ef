/**
 * nodevmm at both ends of vhost-user, in one guest: a disk of `nodevmm serve`, killed under load; a
 * network interface of two queue pairs; a console; and a user-defined device.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { virtio_console_config } from '../../../src/abi/virtio-console.ts';
import { buildGuest } from '../../../src/guest/guests.ts';
import { withModules } from '../../../src/guest/own-modules.ts';
import { packageFolder } from '../../../src/host/package-folder.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { createGuest, guestShell } from '../../support/rigs/guest.ts';
import { programPath } from '../../support/rigs/host.ts';

const PROGRAM = `${packageFolder}/dist/bundle/bin/main.js`;
const EXAMPLE = `${packageFolder}/guests/example/`;
const KILLS = 2;
const HOST = '10.199.78.1';

const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-serve-'));
const at = (name: string): string => path.join(folder, name);
const children = new Map<string, ChildProcess>();
t.teardown(() => {
  for (const child of children.values()) child.kill('SIGKILL');
  rmSync(folder, { recursive: true });
});

/** Starts `nodevmm serve`, and waits until it listens. */
async function serve(name: string, ...args: string[]): Promise<ChildProcess> {
  const argv = [PROGRAM, 'serve', ...args, '--socket', at(`${name}.sock`)];
  const child = spawn(process.execPath, argv, { stdio: ['pipe', 'pipe', 'pipe'] });
  children.set(name, child);
  let output = '';
  await new Promise<void>((resolve, reject) => {
    child.stderr.on('data', (chunk: Buffer) => {
      output += chunk;
      if (output.includes('listening on')) resolve();
    });
    child.once('exit', () => reject(new Error(`serve ${name} ended: ${output}`)));
  });
  return child;
}

const image = at('disk.raw');
writeFileSync(image, '');
truncateSync(image, 4 * MiB);
const disk = (): Promise<ChildProcess> => serve('disk', 'blk', `${image},queues=2`);

const [guest, console_] = await Promise.all([
  buildGuest('tools').then((built) => withModules(built, [`${EXAMPLE}driver`])),
  serve('console', 'console'),
  disk(),
  serve('net', 'net', `auto,queues=2,address=${HOST}/24`),
  serve('own', `${EXAMPLE}device.ts`),
]);
const vm = await createGuest({
  image: 'tools',
  machine: {
    initrd: guest.initrd,
    cpus: 2,
    disks: [{ vhostUser: { socket: at('disk.sock') }, ring: { packed: true } }],
    nets: [{ vhostUser: { socket: at('net.sock') }, queues: 2 }],
    devices: [
      {
        deviceId: 3,
        vhostUser: { socket: at('console.sock') },
        queues: 4,
        configSize: virtio_console_config.size,
        ring: { queueSize: 128 },
      },
      {
        deviceId: 42,
        vhostUser: { socket: at('own.sock') },
        configSize: 12,
        ring: { queueSize: 16 },
      },
    ],
  },
});
t.teardown(() => vm[Symbol.asyncDispose]());
const logs: string[] = [];
vm.on('log', (line) => logs.push(line));
await vm.start();
await vm.ready();
const sh = (script: string): Promise<string> => guestShell(vm, script);

t.test('a user-defined device, with its own driver', async (t) => {
  await sh('until [ -e /dev/virtio-example ]; do sleep 0.1; done; echo Hello >/dev/virtio-example');
  t.equal(await sh('cat /dev/virtio-example'), 'HELLO');
  t.equal(await sh('cat /sys/class/misc/virtio-example/served'), '1', 'it is notified of a change');
  // What it writes gets there by another way than its buffers, which may be faster.
  await sh(`echo 1 >/sys/class/misc/virtio-example/mode
    for i in 1 2 3 4 5; do echo Hello >/dev/virtio-example; cat /dev/virtio-example >/tmp/answer; done`);
  t.equal(await sh('cat /tmp/answer'), 'Uryyb', 'it writes configuration');
});

t.test('a console, both ways', async (t) => {
  let shown = '';
  console_.stdout?.on('data', (chunk: Buffer) => {
    shown += chunk;
  });
  await sh('until [ -c /dev/hvc1 ]; do sleep 0.1; done; stty raw -echo </dev/hvc1');
  const read = sh('head -n 1 /dev/hvc1');
  console_.stdin?.write('from the host\n');
  t.equal(await read, 'from the host');
  await sh('echo from the guest >/dev/hvc1');
  while (!shown.includes('from the guest')) await delay(20);
  t.match(shown, /from the guest/);
});

/** Interrupts of the interface's queues: of each receive queue, then of each transmit queue. */
async function interrupts(): Promise<number[]> {
  const all = await sh(`device=$(basename $(readlink -f /sys/class/net/eth0/device))
    grep -E "$device-(in|out)put" /proc/interrupts | sort -k 7`);
  return all
    .split('\n')
    .map((line) =>
      [...line.matchAll(/ (\d+)(?= )/g)]
        .slice(0, 2)
        .reduce((sum, [, count]) => sum + Number(count), 0),
    );
}

t.test('a network interface of two queue pairs', async (t) => {
  await sh('modprobe virtio_net; until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done');
  await sh('ip addr add 10.199.78.2/24 dev eth0; ip link set eth0 up; ethtool -L eth0 combined 2');
  t.match(await sh('ethtool -l eth0'), /Current[\s\S]*Combined:\s+2/);
  t.match(await sh(`ping -c 2 ${HOST}`), / 0% packet loss/);
  const server = spawn(programPath('iperf3'), ['-s', '--forceflush'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => server.kill());
  await once(server.stdout, 'data');
  const before = await interrupts();
  t.equal(before.length, 4);
  const isUsed = (counts: readonly number[]): boolean =>
    counts.every((count, i) => count > (before[i] ?? 0));
  let counts = before;
  // Which queue a connection takes is its hash's affair.
  for (let i = 0; i < 5 && !isUsed(counts); i++) {
    await sh(`iperf3 -c ${HOST} -n 256K -P 6; iperf3 -R -c ${HOST} -n 256K -P 6`);
    counts = await interrupts();
  }
  t.ok(isUsed(counts), `${before} before, ${counts} after`);
  await sh('ethtool -L eth0 combined 1');
  t.match(await sh(`ping -c 3 -i 0.2 ${HOST}`), / 0% packet loss/, 'one pair alone');
  await sh('ethtool -L eth0 combined 2');
  t.match(await sh(`ping -c 3 -i 0.2 ${HOST}`), / 0% packet loss/, 'and two again');
});

t.test('a disk whose backend is killed under load, on packed rings', async (t) => {
  await sh('modprobe virtio_blk; until [ -b /dev/vda ]; do sleep 0.1; done');
  t.equal((await sh('cat /sys/block/vda/device/features'))[34], '1', 'packed');
  const load = sh(`rounds=0
    until [ -e /tmp/enough ]; do
      fio --name=a --filename=/dev/vda --rw=randwrite --bs=4k --size=1m --iodepth=8 --direct=1 \\
        --ioengine=libaio --verify=crc32c --verify_fatal=1 >/tmp/fio 2>&1 || { cat /tmp/fio; exit 1; }
      rounds=$((rounds + 1))
    done
    echo $rounds`);
  load.catch(() => {});
  for (let kill = 1; kill <= KILLS; kill++) {
    // Whatever waits for the writes also waits for a failure of the writers.
    const stamp = statSync(image).mtimeMs;
    while (statSync(image).mtimeMs === stamp) await Promise.race([delay(10), load]);
    const child = children.get('disk');
    if (child === undefined) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
    await disk();
    // It is back when writes arrive, here or in the next round: lines are logged once a minute.
    const left = statSync(image).mtimeMs;
    while (statSync(image).mtimeMs === left) await Promise.race([delay(10), load]);
  }
  const isTold = (): boolean => logs.some((line) => line.endsWith('the backend reconnected'));
  while (!isTold()) await Promise.race([delay(10), load]);
  await sh('touch /tmp/enough');
  t.ok(Number(await load) > 0, `${await load} rounds, each of them verified`);
  // If a buffer is used twice, Linux reports it and stops the queue.
  t.notMatch(await sh('dmesg'), /is not a head|I\/O error/);
  t.same(
    logs.filter(
      (line) =>
        !/closed the connection; waiting for it at|the backend reconnected|neither trace nor check|more lines? like these/.test(
          line,
        ),
    ),
    [],
  );
});
