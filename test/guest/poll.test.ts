/** Devices that poll, with Linux's drivers: no kicks, by count, and all that stops and moves them meanwhile. */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import type { DiskOptions } from '../../src/index.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { sha256, testFolder } from '../support/rigs/files.ts';
import { bootGuest, DISK_BY_SERIAL, guestShell } from '../support/rigs/guest.ts';

const READS = 100;
const PINGS = 50;
const HOST = '10.0.2.1';
const folder = testFolder(t);
const content = randomBytes(4 * MiB);

function disk(serial: string, options: Omit<DiskOptions, 'path'>): DiskOptions {
  const file = path.join(folder, serial);
  writeFileSync(file, content);
  return { path: file, serial, ...options };
}

// Each device that always polls takes a CPU from the guest.
const vm = await bootGuest({
  image: 'tools',
  machine: {
    cpus: 1,
    disks: [
      disk('kicked', {}),
      disk('adaptive', { poll: 'adaptive', ring: { eventIdx: false } }),
      disk('polled', { poll: 'always', ring: { packed: true } }),
    ],
    nets: [{ hostAddress: `${HOST}/24`, poll: 'always' }],
  },
});
t.teardown(() => vm[Symbol.asyncDispose]());
const sh = (script: string): Promise<string> => guestShell(vm, DISK_BY_SERIAL + script);

/** Accesses of I/O ports in KVM: kicks are such, and little else. */
async function kicks(during: () => Promise<unknown>): Promise<number> {
  const count = async (): Promise<number> => (await vm.metrics()).kvm.io_exits ?? 0;
  const before = await count();
  await during();
  return (await count()) - before;
}

/** Reads one block after the other: each is a chain of its own. */
const read = (serial: string): Promise<string> =>
  sh(`fio --output-format=terse --name=read --filename=/dev/$(disk ${serial}) --readonly --direct=1 \
    --ioengine=psync --rw=randread --bs=4k --number_ios=${READS} --size=4M | cut -d ';' -f 5`);

const verify = (): Promise<string> =>
  sh(`fio --output-format=terse --direct=1 --ioengine=libaio --iodepth=8 --rw=randrw --bsrange=512-16k \
    --size=1M --offset=2M --verify=crc32c --verify_fatal=1 --randseed=7 \
    --name=adaptive --filename=/dev/$(disk adaptive) --name=polled --filename=/dev/$(disk polled) \
    | cut -d ';' -f 3,5`);

const network = (): Promise<string> =>
  sh(`modprobe virtio_net; until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
    ip addr replace 10.0.2.2/24 dev eth0; ip link set eth0 up; ping -c 2 ${HOST}`);

async function expectNoKicks(t: Test, when: string): Promise<void> {
  const count = await kicks(async () => t.equal(await read('polled'), '0'));
  t.ok(count < READS / 4, `${when}: ${count} kicks for ${READS} reads`);
  t.match(await network(), / 0% packet loss/, when);
  const pings = await kicks(() => sh(`ping -q -c ${PINGS} -i 0.05 ${HOST}`));
  t.ok(pings < PINGS / 4, `${when}: ${pings} kicks for ${PINGS} pings`);
}

t.test('a driver kicks for most reads, or for none', async (t) => {
  const count = await kicks(async () => t.equal(await read('kicked'), '0'));
  // The device finds some before it has asked for kicks again.
  t.ok(count > READS / 2, `${count} kicks for ${READS} reads`);
  await expectNoKicks(t, 'after the start');
  const { devices } = await vm.inspect();
  for (const [name, queue] of [
    ['blk2', 0],
    ['net0', 1],
  ] as const) {
    const found = devices.find((device) => device.name === name);
    t.equal(found?.poll, 'always');
    t.equal(found?.queues[queue]?.ring?.kicksSuppressed, true, name);
  }
});

t.test('pauses, a held queue, and moves meanwhile', async (t) => {
  const verified = verify();
  for (let i = 0; i < 3; i++) {
    await vm.pause();
    await vm.resume();
  }
  t.equal(await verified, 'adaptive;0\npolled;0');
  await vm.holdQueue('blk2', '0');
  const held = sh('dd if=/dev/$(disk polled) bs=64k count=1 iflag=direct 2>/dev/null | sha256sum');
  await vm.stepQueue('blk2', '0');
  await vm.releaseQueue('blk2', '0');
  t.equal(await held, `${sha256(content.subarray(0, 65536))}  -`);
  const pinged = sh(`ping -c 20 -i 0.2 ${HOST}`);
  await vm.moveDatapath('net0', 'vhost');
  await vm.moveDatapath('net0', 'userspace');
  t.match(await pinged, / 0% packet loss/);
});

t.test('a reset of the devices, and a reboot', async (t) => {
  await sh(`for driver in virtio_net virtio_blk; do
      cd /sys/bus/virtio/drivers/$driver
      for d in virtio*; do echo $d >unbind; echo $d >bind; done
    done`);
  await expectNoKicks(t, 'after a reset');
  const reboot = once(vm, 'reboot');
  vm.spawn(['reboot', '-f']).exit.catch(() => {});
  await reboot;
  await vm.ready();
  await expectNoKicks(t, 'after a reboot');
});
