/** Every device over MMIO with Linux's drivers, in one guest: data, notifications, resets. */
import { once } from 'node:events';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import path from 'node:path';
import t from 'tap';
import * as ring from '../../src/abi/virtio-ring.ts';
import type { DiskOptions } from '../../src/index.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { sha256, testFolder } from '../support/rigs/files.ts';
import { bootGuest, DISK_BY_SERIAL, guestShell } from '../support/rigs/guest.ts';

const folder = testFolder(t);
const at = (name: string): string => path.join(folder, name);

const counting = at('counting.ts');
writeFileSync(
  counting,
  `import { defineDevice } from 'nodevmm/device';

let next = 0;
export default defineDevice({
  deviceId: 4,
  queues: {
    requestq: {
      handle(request) {
        const bytes = new Uint8Array(Math.min(request.writableLength, 8));
        for (let i = 0; i < bytes.length; i++) bytes[i] = next += 3;
        request.write(bytes);
      },
    },
  },
});
`,
);

function disk(serial: string, options: Omit<DiskOptions, 'path'>): DiskOptions {
  writeFileSync(at(serial), '');
  truncateSync(at(serial), 16 * MiB);
  return { path: at(serial), serial, ...options };
}

const HOST = '10.0.9.1';
const vm = await bootGuest({
  image: 'tools',
  append: 'nodevmm.ip=10.0.9.2/24',
  machine: {
    transport: 'mmio',
    disks: [
      disk('split', { engine: 'sync', queues: 2 }),
      disk('packed', { engine: 'io_uring', ring: { packed: true, inOrder: true } }),
      disk('data', { ring: { packed: true, notificationData: true } }),
      disk('bus', { transport: 'pci' }),
    ],
    nets: [{ hostAddress: `${HOST}/24` }],
    rng: { ring: { packed: true } },
    vsock: { cid: 42, path: at('vm.sock') },
    devices: [{ module: counting, thread: 'worker', ring: { packed: true } }],
  },
});
t.teardown(() => vm[Symbol.asyncDispose]());
const sh = (script: string): Promise<string> => guestShell(vm, DISK_BY_SERIAL + script);
const PING = `ping -c 2 -s 4000 -W 20 ${HOST} >/dev/null`;
/** Windows in the order of the devices: console, disks, net, rng, vsock, own. */
const window = (index: number): string => `LNRO0005:0${index}`;

t.test('ACPI shows each device, and each has its driver', async (t) => {
  const bound = await sh(`for d in /sys/bus/virtio/devices/*; do
    p=$(readlink -f $d); p=\${p%/*}
    echo \${p##*/} $(basename $(readlink $d/driver))
  done`);
  t.same(bound.split('\n').sort(), [
    '0000:00:01.0 virtio_blk',
    `${window(0)} virtio_console`,
    `${window(1)} virtio_blk`,
    `${window(2)} virtio_blk`,
    `${window(3)} virtio_blk`,
    `${window(4)} virtio_net`,
    `${window(5)} virtio_rng`,
    `${window(6)} vmw_vsock_virtio_transport`,
    `${window(7)} virtio_rng`,
  ]);
});

t.test('the requested ring features are negotiated', async (t) => {
  const bits = [
    ring.VIRTIO_F_VERSION_1,
    ring.VIRTIO_F_INDIRECT_DESC,
    ring.VIRTIO_F_EVENT_IDX,
    ring.VIRTIO_F_RING_PACKED,
    ring.VIRTIO_F_NOTIFICATION_DATA,
  ];
  const shown = await sh(`for w in 1 2 3 4; do
    cat /sys/bus/platform/devices/LNRO0005:0$w/virtio*/features
  done`);
  const features = shown.split('\n').map((set) => bits.map((bit) => set[bit]).join(''));
  t.same(features, ['11100', '11110', '11111', '11100']);
});

t.test('the console prints', async (t) => {
  let printed = '';
  vm.console.on('data', (bytes: Buffer) => {
    printed += bytes.toString();
  });
  await sh('echo it came by memory >/dev/hvc0');
  while (!printed.includes('it came by memory')) await once(vm.console, 'data');
  t.pass();
});

t.test('fio verifies what it wrote, on all disks at once', async (t) => {
  const jobs = ['split', 'packed', 'data', 'bus'].map(
    (serial) => `--name=${serial} --filename=/dev/$(disk ${serial})`,
  );
  const report = await sh(`fio --output-format=terse --direct=1 --ioengine=libaio --iodepth=16 \
    --rw=randrw --bsrange=512-16k --size=1M --offset=4M --verify=crc32c --verify_fatal=1 \
    --randseed=7 ${jobs.join(' ')}`);
  const errors = report.split('\n').map((line) => line.split(';').slice(2, 5));
  t.same(
    errors,
    ['split', 'packed', 'data', 'bus'].map((serial) => [serial, '0', '0']),
  );
});

t.test("what was flushed is in the host's file", async (t) => {
  for (const serial of ['split', 'packed', 'data']) {
    const sum = await sh(`head -c 1m /dev/urandom >/random
      dd if=/random of=/dev/$(disk ${serial}) bs=64k conv=fsync 2>/dev/null
      sha256sum </random`);
    t.equal(sum, `${sha256(readFileSync(at(serial)).subarray(0, MiB))}  -`, serial);
  }
});

t.test('the network, in user space and in the host kernel', async (t) => {
  await sh(PING);
  await vm.moveDatapath('net0', 'vhost');
  await sh(PING);
  await vm.moveDatapath('net0', 'userspace');
  await sh(PING);
  t.pass();
});

t.test('entropy, from the built-in device and from one of our own', async (t) => {
  const folder = '/sys/class/misc/hw_random';
  const from = (
    index: number,
  ) => `until grep -q virtio_rng.1 ${folder}/rng_available; do sleep 0.1; done
    echo virtio_rng.${index} >${folder}/rng_current
    timeout 200 head -c 8 /dev/hwrng | od -An -tu1`;
  const runs = [await sh(from(0)), await sh(from(1))].map((text) => {
    const bytes = text.trim().split(/\s+/).map(Number);
    t.equal(bytes.length, 8);
    return bytes.slice(1).every((byte, i) => ((byte - (bytes[i] ?? 0)) & 0xff) === 3);
  });
  t.same(runs.sort(), [false, true], 'one of them counts by three');
});

t.test('a stream from the host, there and back', async (t) => {
  const listener = vm.spawn(['nodevmm-agent', 'vsock', 'listen', '52', 'cat']);
  await once(listener.stdout, 'data');
  const socket = connect({ path: at('vm.sock'), allowHalfOpen: true });
  const text = 'x'.repeat(MiB);
  socket.end(`CONNECT 52\n${text}`);
  let back = '';
  for await (const part of socket) back += String(part);
  t.match(back, /^OK \d+\n/);
  t.ok(back.endsWith(text), `${back.length} characters`);
});

t.test('drivers are unbound under traffic and bound again', async (t) => {
  const rebind = (index: number): string => `
    echo ${window(index)} >/sys/bus/platform/drivers/virtio-mmio/unbind
    echo ${window(index)} >/sys/bus/platform/drivers/virtio-mmio/bind`;
  for (const [index, serial] of [
    [1, 'split'],
    [2, 'packed'],
  ] as const) {
    const before = sha256(readFileSync(at(serial)).subarray(0, MiB));
    const sum = await sh(`d=$(disk ${serial})
      fio --name=traffic --filename=/dev/$d --rw=randread --bs=4k --direct=1 --ioengine=libaio \
        --iodepth=16 --time_based --runtime=600 >/dev/null 2>&1 & pid=$!
      until [ $(awk '{print $1}' /sys/block/$d/stat) -gt 100 ]; do sleep 0.1; done
      ${rebind(index)}
      kill $pid || true; wait || true
      dd if=/dev/$(disk ${serial}) bs=64k count=16 iflag=direct 2>/dev/null | sha256sum`);
    t.equal(sum, `${before}  -`, serial);
  }
  await sh(`received() { cat /sys/class/net/eth0/statistics/rx_packets; }
    (while ping -c 1 -W 20 ${HOST} >/dev/null 2>&1; do :; done) &
    enough=$(($(received) + 10))
    until [ $(received) -gt $enough ]; do sleep 0.1; done
    ${rebind(4)}
    until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
    ip addr add 10.0.9.2/24 dev eth0; ip link set eth0 up
    ${PING}`);
});

t.test('the kernel found nothing to warn of', async (t) => {
  t.equal(await sh("dmesg | grep -E 'WARNING: CPU|BUG: |virtio.*(failed|error)' || true"), '');
});
