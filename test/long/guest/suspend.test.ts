/** A guest sleeps in RAM with work on every kind of device: docs/power.md. */
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { VirtualMachine } from '../../../src/index.ts';
import { testFolder } from '../../support/rigs/files.ts';
import {
  bootGuest,
  DISK_BY_SERIAL,
  guestShell,
  stateOf,
  vsockAnswer,
} from '../../support/rigs/guest.ts';
import { tapReason } from '../../support/rigs/host.ts';

const MiB = 2 ** 20;

async function sleepAndWake(vm: VirtualMachine): Promise<void> {
  const asleep = stateOf(vm, 'suspended');
  const command = guestShell(vm, 'echo mem >/sys/power/state || { dmesg | tail -20; false; }');
  // A guest that cannot sleep says so.
  await Promise.race([asleep, command]);
  await vm.wake();
  await command;
}

for (const [name, packed, cpus] of [
  ['split rings, 1 vCPU', false, 1],
  ['packed rings, 4 vCPUs', true, 4],
] as const) {
  t.test(`disk, network, and vsock across sleeps: ${name}`, async (t) => {
    const folder = testFolder(t);
    const disk = join(folder, 'disk.raw');
    writeFileSync(disk, Buffer.alloc(64 * MiB));
    const ring = { packed };
    const network = tapReason() === false;
    await using vm = await bootGuest({
      image: 'tools',
      append: network ? 'nodevmm.ip=10.77.0.2/24' : '',
      machine: {
        cpus,
        memory: 512 * MiB,
        disks: [{ path: disk, serial: 'verify', ring }],
        vsock: { cid: 77, path: join(folder, 'vsock.sock'), ring },
        ...(network ? { nets: [{ hostAddress: '10.77.0.1/24', ring }] } : {}),
      },
    });
    const listener = vm.spawn(['nodevmm-agent', 'vsock', 'listen', '53', 'cat']);
    await once(listener.stdout, 'data');
    const fio = vm.exec([
      'sh',
      '-c',
      `${DISK_BY_SERIAL} fio --name=v --filename=/dev/$(disk verify) --rw=randrw --bs=4k --size=32m \
       --iodepth=8 --ioengine=libaio --direct=1 --verify=crc32c --time_based --runtime=25 \
       --verify_fatal=1 --output-format=terse`,
    ]);
    for (let round = 0; round < 3; round++) {
      await sleepAndWake(vm);
      if (network) await guestShell(vm, 'ping -c 1 -W 20 10.77.0.1');
      t.equal((await vsockAnswer(vm, 53, Buffer.from('there'))).toString(), 'there');
    }
    const { exitCode, stdout, stderr } = await fio;
    t.equal(exitCode, 0, `${stdout}${stderr}`);
    t.equal(await guestShell(vm, 'nproc'), String(cpus));
    const log = 'dmesg | grep -iE "warn|BUG:|I/O error|lockup|stall" || true';
    t.equal(await guestShell(vm, log), '');
  });
}
