/** Looking into the devices of a running guest: features by name, moving indices, held queues. */
import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import t from 'tap';
import { packageFolder } from '../../src/host/package-folder.ts';
import type { InspectedDevice, InspectedQueue } from '../../src/index.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { boxesIn, drawingOf, stepsOf } from '../support/rigs/drawing.ts';
import { testFolder } from '../support/rigs/files.ts';
import { bootGuest, DISK_BY_SERIAL, guestShell } from '../support/rigs/guest.ts';

const DEADLINE_MS = 60_000;
const HOST = '10.0.2.1';
const BLOCKS = 6;
const NAME = `inspected-${process.pid}`;
const MAIN = path.join(packageFolder, 'dist/src/cli/main.js');
const folder = testFolder(t);

const content = randomBytes(MiB);
const disks = (['split', 'packed'] as const).map((serial) => {
  const file = path.join(folder, serial);
  writeFileSync(file, content);
  return { path: file, serial, ring: { packed: serial === 'packed' } };
});

const nets = [{ hostAddress: `${HOST}/24` }];
/** At no PCI address. */
const window = path.join(folder, 'window');
writeFileSync(window, Buffer.alloc(MiB));
const vm = await bootGuest({
  image: 'tools',
  machine: {
    name: NAME,
    cpus: 1,
    memory: 512 * MiB,
    disks: [...disks, { path: window, transport: 'mmio' }],
    nets,
  },
});
t.teardown(() => vm[Symbol.asyncDispose]());
const sh = (script: string): Promise<string> => guestShell(vm, DISK_BY_SERIAL + script);
const paths = {
  split: `/dev/${await sh('disk split')}`,
  packed: `/dev/${await sh('disk packed')}`,
};
await sh(`  modprobe virtio_net; until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
  ip addr add 10.0.2.2/24 dev eth0 && ip link set eth0 up; ping -c 1 ${HOST}`);

async function device(name: string): Promise<InspectedDevice> {
  const { devices } = await vm.inspect();
  const found = devices.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no ${name}`);
  return found;
}

/** With its position: a thread that gets no CPU for a while does not report it. */
async function queue(name: string, index: number): Promise<InspectedQueue> {
  for (;;) {
    const found = (await device(name)).queues[index];
    if (found === undefined) throw new Error(`no queue ${index}`);
    if (found.state !== undefined) return found;
  }
}

/** Chains, or descriptors on packed queues, that the device may take and has not. */
function waiting({ ring, state }: InspectedQueue): number {
  if (ring?.format === 'packed') return ring.waiting ?? -1;
  if (ring === undefined || state === undefined) return -1;
  return (ring.available.idx - state.nextAvail) & 0xffff;
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`waited in vain until ${what}`);
    await delay(20);
  }
}

t.test('features, status and configuration by name', async (t) => {
  const accepted = ({ features }: InspectedDevice): (string | undefined)[] =>
    features.filter(({ negotiated }) => negotiated).map(({ name }) => name);
  const net = await device('net0');
  t.match(net, { type: 'network', deviceId: 1, datapath: 'userspace', thread: 'worker' });
  t.same(net.statusBits, ['ACKNOWLEDGE', 'DRIVER', 'FEATURES_OK', 'DRIVER_OK']);
  for (const name of ['VIRTIO_NET_F_MAC', 'VIRTIO_NET_F_MRG_RXBUF', 'VIRTIO_F_VERSION_1']) {
    t.ok(accepted(net).includes(name), name);
  }
  const mac = await sh('cat /sys/class/net/eth0/address');
  t.equal(net.config.slice(0, 12), mac.replaceAll(':', ''), 'the configuration starts with it');
  const [split, packed] = [await device('blk0'), await device('blk1')];
  t.ok(accepted(split).includes('VIRTIO_BLK_F_FLUSH'));
  t.notOk(accepted(split).includes('VIRTIO_F_RING_PACKED'));
  t.ok(accepted(packed).includes('VIRTIO_F_RING_PACKED'));
  t.same(
    [split, packed].map(({ queues }) => queues[0]?.ring?.format),
    ['split', 'packed'],
  );
});

t.test('a drawing of what serves the device, and of the driver that the guest names', async (t) => {
  const net = await drawingOf(vm, 'net0');
  const { place, backend } = await device('net0');
  t.equal(net.title, `net0: network, ${place}, served in nodevmm`);
  t.same(boxesIn(net, 'guestKernel'), ['virtio_net']);
  t.same(boxesIn(net, 'vmm'), ['vCPU threads', 'thread net0']);
  t.same(boxesIn(net, 'hostKernel'), ['KVM', backend?.name]);
  t.match(backend, { name: /^tap /, calls: 'readv, writev' });
  t.same(stepsOf(net), [
    'rings guestKernel vmm: shared memory',
    'control guestKernel vmm: VM exit to user space',
    'data guestUser guestKernel: guest system call',
    'data vmm hostKernel: system call',
    'kick guestKernel hostKernel: VM exit',
    'kick hostKernel vmm: wake-up',
    'interrupt vmm hostKernel: system call',
    'interrupt hostKernel guestKernel: VM entry',
  ]);
  const inWindow = await drawingOf(vm, 'blk2');
  t.match(inWindow.title, /^blk2: block, MMIO 0x[\da-f]+, served in nodevmm$/);
  t.same(boxesIn(inWindow, 'guestKernel'), ['virtio_blk']);
  await until('the thread of an idle disk is blocked', async () => {
    return (await device('blk0')).threadState === 'blocked';
  });
  const argv = [MAIN, 'inspect', NAME, '--drawing', 'text', '--device', 'blk0'];
  let stdout = '';
  await until('another process asks the guest, too', async () => {
    ({ stdout } = await promisify(execFile)(process.execPath, argv));
    return /│virtio_blk +│║│vCPU threads/.test(stdout);
  });
  t.match(stdout, /^blk0: block, PCI .*, served in nodevmm\n/);
  t.match(stdout, /│thread blk0/);
  t.match(stdout, /requestq1 at 0x[\da-f]+/);
  t.match(stdout, /\n\d+ VM exits, \d+ to user space since power-on\n$/);
});

t.test('a device that its driver has left, and is back', async (t) => {
  const { place = '' } = await device('blk1');
  const address = place.replace('PCI ', '0000:');
  await sh(`echo ${address} >/sys/bus/pci/devices/${address}/driver/unbind`);
  t.same(boxesIn(await drawingOf(vm, 'blk1'), 'guestKernel'), ['no driver']);
  await sh(`echo ${address} >/sys/bus/pci/drivers/virtio-pci/bind
    until [ -b ${paths.packed} ]; do sleep 0.1; done`);
  t.same(boxesIn(await drawingOf(vm, 'blk1'), 'guestKernel'), ['virtio_blk']);
});

const read = (serial: 'split' | 'packed'): Promise<string> =>
  sh(`dd if=${paths[serial]} bs=4k count=${BLOCKS} iflag=direct 2>/dev/null | sha256sum`);
const sum = createHash('sha256')
  .update(content.subarray(0, BLOCKS * 4096))
  .digest('hex');

t.test('the indices move with requests', async (t) => {
  for (const [name, serial] of [
    ['blk0', 'split'],
    ['blk1', 'packed'],
  ] as const) {
    const before = await queue(name, 0);
    t.equal(await read(serial), `${sum}  -`);
    const after = await queue(name, 0);
    t.not(after.state?.nextUsed, before.state?.nextUsed, serial);
    t.equal(after.state?.nextUsed, after.state?.nextAvail, 'none is in flight');
    if (before.ring?.format !== 'split' || after.ring?.format !== 'split') continue;
    t.equal((after.ring.used.idx - before.ring.used.idx) & 0xffff, BLOCKS);
    t.same(after.ring.inFlight, []);
  }
});

for (const [name, serial] of [
  ['blk0', 'split'],
  ['blk1', 'packed'],
] as const) {
  t.test(`a held queue passes a request a step: ${serial}`, async (t) => {
    await vm.holdQueue(name, '0');
    let done = false;
    const reading = read(serial).finally(() => {
      done = true;
    });
    await until('the request waits', async () => waiting(await queue(name, 0)) === 1);
    for (let step = 1; step < BLOCKS; step++) {
      const before = await queue(name, 0);
      t.equal(before.held, 0);
      t.equal(before.state?.nextAvail, before.state?.nextUsed, 'nothing is in flight');
      await vm.stepQueue(name, '0');
      await until('the next one waits', async () => {
        const { state, ...rest } = await queue(name, 0);
        const went = state !== undefined && state.nextUsed !== before.state?.nextUsed;
        return went && waiting({ ...rest, state }) === 1;
      });
      const { state, ring } = await queue(name, 0);
      if (ring?.format === 'split') {
        t.equal(((state?.nextUsed ?? 0) - (before.state?.nextUsed ?? 0)) & 0xffff, 1);
      }
      t.notOk(done, `after step ${step}`);
    }
    await vm.releaseQueue(name, '0');
    t.equal(await reading, `${sum}  -`, 'and all of it is right');
    t.equal((await queue(name, 0)).held, null);
  });
}

t.test('a network device continues when its held queues are released', async (t) => {
  for (const held of ['transmitq1', 'receiveq1']) {
    await vm.holdQueue('net0', held);
    const { stdout } = await vm.exec(['ping', '-c', '1', '-W', '1', HOST]);
    t.match(stdout.toString(), / 100% packet loss/, held);
    await vm.releaseQueue('net0', held);
    t.match(await sh(`ping -c 2 ${HOST}`), / 0% packet loss/, held);
  }
  await t.rejects(vm.holdQueue('net0', 'nosuchq'), { code: 'E_QUEUE' });
});
