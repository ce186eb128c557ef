/**
 * A disk of `nodevmm serve --vduse`, in both formats of rings: its server is killed again and again under fio, as the lab's own
 * disk and as a guest's by vhost-vdpa; in the guest a file system, and pauses with a full queue.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t from 'tap';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { bootGuest, DISK_BY_SERIAL, guestShell } from '../../support/rigs/guest.ts';
import { programPath } from '../../support/rigs/host.ts';
import {
  HostDisk,
  loadModules,
  PROGRAM,
  run,
  SERIAL,
  verifiedWrites,
} from '../../support/rigs/vduse.ts';

t.setTimeout(1_800_000);
const KILLS = 3;
const NAME = 'kill-disk';

/** Rejects when it ends. */
function failure(load: Promise<unknown>): Promise<never> {
  const failed = load.then(() => {
    throw new Error('the load ended too early');
  });
  failed.catch(() => {});
  return failed;
}

const optionsOf = (format: string): string =>
  `queues=2,packed=${format === 'packed' ? 'on' : 'off'}`;

loadModules('vduse', 'virtio_vdpa', 'virtio_blk');

for (const format of ['split', 'packed']) {
  t.test(`the lab's own disk, its server killed under fio (${format})`, async (t) => {
    const options = optionsOf(format);
    const host = new HostDisk(NAME);
    const { child: first, disk } = await host.serve(options);
    let child = first;
    run('mkfs.ext4', '-q', disk);
    const fio = spawn(programPath('fio'), verifiedWrites(disk, 32, 32), {
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    t.teardown(() => fio.kill('SIGKILL'));
    const load = once(fio, 'exit');
    for (let kill = 0; kill < KILLS; kill++) {
      child = await host.replace(child, options, failure(load));
      // A test that is silent for long is ended.
      t.comment(`replaced ${kill + 1} times`);
    }
    t.same(await load, [0, null], 'fio verified what it wrote');
    t.notMatch(run('dmesg'), /I\/O error|is not a head/);
    child.kill('SIGTERM');
    t.same(await once(child, 'exit'), [0, null]);
  });
}

/** How long the kernel waits for an answer, in seconds. */
const setTimeoutOf = (name: string, seconds: number): void =>
  writeFileSync(`/sys/class/vduse/${name}/msg_timeout`, String(seconds));

t.test('what a killed server left, removed by hand, is replaced', async (t) => {
  const host = new HostDisk(NAME);
  const { child } = await host.serve('queues=1');
  child.kill('SIGKILL');
  await once(child, 'exit');
  setTimeoutOf(NAME, 1);
  run('vdpa', 'dev', 'del', NAME);
  t.ok(existsSync(`/dev/vduse/${NAME}`));
  const { child: next, disk } = await host.serve('queues=1');
  t.equal(run('dd', `if=${disk}`, 'bs=512', 'count=1', 'status=none').length, 512);
  next.kill('SIGTERM');
  t.same(await once(next, 'exit'), [0, null]);
});

t.test('a server that was silent for too long ends, with its device', async (t) => {
  const host = new HostDisk(NAME);
  const { child } = await host.serve('queues=1');
  setTimeoutOf(NAME, 1);
  let output = '';
  child.stderr?.on('data', (chunk: Buffer) => {
    output += chunk;
  });
  child.kill('SIGSTOP');
  writeFileSync('/sys/bus/vdpa/drivers/virtio_vdpa/unbind', NAME);
  child.kill('SIGCONT');
  t.same(await once(child, 'exit'), [2, null]);
  t.match(output, /the kernel has given the VDUSE device kill-disk up/);
  t.notOk(existsSync(`/sys/bus/vdpa/devices/${NAME}`));
  t.notOk(existsSync(`/dev/vduse/${NAME}`));
});

for (const mode of ['throw', 'hang']) {
  t.test(`a page of TypeScript with a bug does not hang the lab (${mode})`, async (t) => {
    const file = join(testFolder(t), 'broken.ts');
    writeFileSync(
      file,
      `import { defineDevice } from 'nodevmm/device';
       export default defineDevice(({ mode }) => ({
         deviceId: 2,
         config: { capacity: { bytes: 8, initial: 2048 } },
         queues: {
           requestq: {
             handle: () => {
               if (mode === 'throw') throw new Error('oops');
               return new Promise(() => {});
             },
           },
         },
       }));`,
    );
    const argv = [PROGRAM, 'device', 'mount', `${file},mode=${mode}`];
    const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'inherit'] });
    t.teardown(() => child.kill('SIGKILL'));
    const ended = once(child, 'exit');
    if (mode === 'throw') {
      const [disk] = await Promise.race([once(child.stdout, 'data'), failure(ended)]);
      const dd = ['dd', `if=${String(disk).trim()}`, 'of=/dev/null', 'bs=512', 'count=1'];
      t.throws(() => run('/run/nodevmm/busybox', ...dd), /Input\/output error/);
    } else {
      // Its driver's probe reads the disk's partitions.
      while (!existsSync('/sys/bus/vdpa/devices/broken')) {
        await Promise.race([delay(100), failure(ended)]);
      }
    }
    child.kill('SIGINT');
    t.same(await ended, [0, null]);
    t.notOk(existsSync('/sys/bus/vdpa/devices/broken'));
    t.notOk(existsSync('/dev/vduse/broken'));
  });
}

t.test('the driver for guests instead', async () => {
  run('/run/nodevmm/busybox', 'rmmod', 'virtio_vdpa');
  loadModules('vhost_vdpa');
});

for (const format of ['split', 'packed']) {
  t.test(`a guest's disk (${format})`, async (t) => {
    const options = optionsOf(format);
    const host = new HostDisk(NAME);
    let child = await host.start(options);
    const folder = `/sys/bus/vdpa/devices/${NAME}`;
    const file = readdirSync(folder).find((entry) => entry.startsWith('vhost-vdpa'));
    const vm = await bootGuest({
      image: 'tools',
      machine: {
        memory: 512 * MiB,
        disks: [{ vdpa: `/dev/${file}`, ring: { packed: format === 'packed' } }],
      },
    });
    t.teardown(() => vm.close());
    const sh = (script: string): Promise<string> => guestShell(vm, script);
    await sh(`modprobe virtio_blk; ${DISK_BY_SERIAL} disk ${SERIAL}`);
    t.equal((await sh('cat /sys/block/vda/device/features'))[34], format === 'packed' ? '1' : '0');

    await sh(`mkfs.ext4 -q /dev/vda; mkdir /tmp/m; mount /dev/vda /tmp/m
      cp /bin/busybox /tmp/m/; umount /tmp/m; mount /dev/vda /tmp/m
      cmp /bin/busybox /tmp/m/busybox; umount /tmp/m`);
    t.pass('a file system, and a file after another mount');

    const fio = verifiedWrites('/dev/vda', 8, 32).join(' ');
    const load = sh(`fio ${fio} >/tmp/fio 2>&1 || { cat /tmp/fio; exit 1; }; echo verified`);
    for (let kill = 0; kill < KILLS; kill++) {
      child = await host.replace(child, options, failure(load));
      // A test that is silent for long is ended.
      t.comment(`replaced ${kill + 1} times`);
    }
    t.equal(await load, 'verified');

    const paused = sh(`fio ${fio} >/tmp/fio 2>&1 || { cat /tmp/fio; exit 1; }; echo verified`);
    for (let pause = 0; pause < 3; pause++) {
      await Promise.race([delay(500), failure(paused)]);
      await vm.pause();
      await vm.resume();
    }
    t.equal(await paused, 'verified', 'over pauses with a full queue');
    t.notMatch(await sh('dmesg'), /I\/O error|is not a head/);
    await vm.close();
    child.kill('SIGTERM');
    t.same(await once(child, 'exit'), [0, null]);
    t.notOk(existsSync(folder));
  });
}
