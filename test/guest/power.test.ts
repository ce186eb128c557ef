/** How runs of a guest end, and reboots. */
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { VirtualMachine } from '../../src/index.ts';
import { testFolder } from '../support/rigs/files.ts';
import { bootGuest, DISK_BY_SERIAL, exitsOf, guestShell, stateOf } from '../support/rigs/guest.ts';

const MiB = 2 ** 20;

/** Resolves when no vCPU exits for a second. */
async function quiet(vm: VirtualMachine): Promise<void> {
  for (let last = -1; ; ) {
    const exits = await exitsOf(vm);
    if (exits === last) return;
    last = exits;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

t.test('power-off from inside', async (t) => {
  await using vm = await bootGuest();
  vm.spawn(['poweroff', '-f']).exit.catch(() => {});
  t.equal((await vm.wait()).reason, 'power-off');
});

t.test('reboot from inside starts the guest again', async (t) => {
  await using vm = await bootGuest();
  await vm.exec(['sh', '-c', 'echo kept > /marker']);
  const reboot = once(vm, 'reboot');
  vm.spawn(['reboot', '-f']).exit.catch(() => {});
  await reboot;
  const marker = await vm.exec(['cat', '/marker']);
  t.not(marker.exitCode, 0, 'the second boot starts from the image');
});

t.test('reboot ends the run if requested', async (t) => {
  await using vm = await bootGuest({ machine: { onReboot: 'exit' } });
  vm.spawn(['reboot', '-f']).exit.catch(() => {});
  t.equal((await vm.wait()).reason, 'reboot');
});

for (const [name, append] of [
  ['with the panic device', ''],
  ['by its message alone', 'module_blacklist=pvpanic_mmio,pvpanic'],
] as const) {
  t.test(`a kernel panic is reported ${name}`, async (t) => {
    await using vm = await bootGuest({ append });
    vm.spawn(['sh', '-c', 'echo c > /proc/sysrq-trigger']).exit.catch(() => {});
    const { reason, detail } = await vm.wait();
    t.equal(reason, 'panic');
    t.match(detail, /Kernel panic - not syncing/);
  });
}

t.test('a triple fault is reported, with registers', async (t) => {
  await using vm = await bootGuest({ append: 'reboot=triple' });
  vm.spawn(['reboot', '-f']).exit.catch(() => {});
  const { reason, detail } = await vm.wait();
  t.equal(reason, 'triple-fault');
  t.match(detail, /rip/i);
});

t.test('pause stops the clock ticks of the guest, resume restarts them', async (t) => {
  await using vm = await bootGuest({ machine: { cpus: 2 } });
  const counter = vm.spawn(['sh', '-c', 'while :; do echo tick; done']);
  await once(counter.stdout, 'data');
  await vm.pause();
  const before = await exitsOf(vm);
  t.equal(await exitsOf(vm), before, 'no vCPU exits while paused');
  await vm.resume();
  counter.kill('SIGKILL');
  counter.stdout.resume();
  t.equal((await counter.exit).signal, 'SIGKILL');
});

t.test('one guest: its clock, a long pause, the power button', async (t) => {
  await using vm = await bootGuest();

  await t.test('the clock: read by hwclock, set, and its alarm', async (t) => {
    const epoch = async (): Promise<number> =>
      Number(await guestShell(vm, 'cat /sys/class/rtc/rtc0/since_epoch'));
    t.match(await guestShell(vm, 'hwclock -r -u'), / 20\d\d /);
    const host = Date.now() / 1000;
    t.ok(Math.abs((await epoch()) - host) < 60, 'the host’s time');
    const fired = await guestShell(
      vm,
      `cd /sys/class/rtc/rtc0
       count() { awk '/rtc0/ { print $2 }' /proc/interrupts; }
       before=$(count)
       echo +2 >wakealarm
       while [ -n "$(cat wakealarm)" ]; do sleep 0.2; done
       echo $(($(count) - before))`,
    );
    t.ok(Number(fired) >= 1, `${fired} interrupts`);
    await guestShell(vm, 'date -s 2001-02-03 && hwclock -w -u');
    t.ok(Math.abs((await epoch()) - Date.parse('2001-02-03T00:00:00Z') / 1000) < 60);
  });

  await t.test('a busy guest that was paused for long sees no lockup', async (t) => {
    // Two seconds without the watchdog's thread are a soft lockup then.
    await guestShell(vm, 'echo 1 >/proc/sys/kernel/watchdog_thresh; dmesg -c >/dev/null');
    const busy = vm.spawn(['sh', '-c', 'while :; do :; done']);
    await guestShell(vm, 'sleep 2');
    await vm.pause();
    await new Promise((resolve) => setTimeout(resolve, 10_000));
    await vm.resume();
    await guestShell(vm, 'sleep 3');
    busy.kill('SIGKILL');
    await busy.exit;
    t.notMatch(await guestShell(vm, 'dmesg'), /lockup|stall/);
  });

  await t.test('the power button shuts it down', async (t) => {
    await vm.pressPowerButton();
    t.match(await vm.wait(), { reason: 'power-off', asked: true });
    await t.rejects(vm.pressPowerButton(), { code: 'E_STATE' });
  });
});

t.test('one guest with two vCPUs and a disk: sleep and wake-up', async (t) => {
  const disk = join(testFolder(t), 'disk.img');
  writeFileSync(disk, randomBytes(8 * MiB));
  await using vm = await bootGuest({
    machine: { cpus: 2, disks: [{ path: disk, serial: 'asleep' }] },
  });
  const read = `${DISK_BY_SERIAL} dd if=/dev/$(disk asleep) bs=1M iflag=direct 2>/dev/null | md5sum`;
  const sum = createHash('md5').update(readFileSync(disk)).digest('hex');
  const log = 'dmesg -c | grep -iE "warn|BUG:|error|fail|stall|lockup" || true';
  const alarm = 'echo 0 >/sys/class/rtc/rtc0/wakealarm; echo +3 >/sys/class/rtc/rtc0/wakealarm';
  await guestShell(vm, 'dmesg -c >/dev/null');

  /** Has the guest sleep, and wakes it. */
  const sleep = async (wake: () => unknown, state = 'mem'): Promise<void> => {
    const asleep = stateOf(vm, 'suspended');
    const command = vm.exec(['sh', '-c', `echo ${state} >/sys/power/state`]);
    await asleep;
    const awake = stateOf(vm, 'running');
    await wake();
    await awake;
    t.equal((await command).exitCode, 0);
  };

  await t.test('S3, woken by the host: memory, clock, disk, and vCPUs are there', async (t) => {
    t.match(await guestShell(vm, 'cat /sys/power/mem_sleep'), '[deep]');
    await guestShell(vm, 'echo kept >/marker');
    await sleep(async () => {
      const before = await exitsOf(vm);
      t.equal(await exitsOf(vm), before, 'no vCPU runs');
      await t.rejects(vm.pause(), { code: 'E_STATE' });
      await vm.wake();
    });
    t.equal(await guestShell(vm, 'cat /marker'), 'kept');
    t.match(await guestShell(vm, read), sum);
    t.equal(await guestShell(vm, 'nproc'), '2');
    const now = Number(await guestShell(vm, 'date +%s'));
    t.ok(Math.abs(now - Date.now() / 1000) < 30, 'the wall clock is right');
    t.equal(await guestShell(vm, log), '');
    await t.rejects(vm.wake(), { code: 'E_STATE' });
  });

  await t.test('S3, woken by the clock, a key, and either button', async (t) => {
    await guestShell(vm, alarm);
    await sleep(() => {});
    await sleep(() => vm.console.write('\n'));
    await sleep(() => vm.serial.write('\n'));
    await sleep(() => vm.pressPowerButton());
    await sleep(() => vm.pressSleepButton());
    t.match(await guestShell(vm, read), sum);
    t.equal(await guestShell(vm, log), '');
    t.equal(await guestShell(vm, 'cat /sys/power/suspend_stats/success'), '6');
  });

  await t.test('another generation ID reseeds its random numbers', async (t) => {
    await vm.renewGeneration();
    const reseeded = 'crng reseeded due to virtual machine fork';
    await guestShell(vm, `until dmesg | grep -q "${reseeded}"; do sleep 0.2; done`);
    t.equal(vm.state, 'running');
  });

  await t.test('suspended to idle, woken by the sleep button and the clock', async (t) => {
    const idle = vm.exec(['sh', '-c', 'echo freeze >/sys/power/state']);
    await quiet(vm);
    await vm.pressSleepButton();
    t.equal((await idle).exitCode, 0);
    await guestShell(vm, `${alarm}; echo freeze >/sys/power/state`);
    t.match(await guestShell(vm, read), sum);
    t.equal(await guestShell(vm, log), '');
  });
});

t.test('a guest that does not restart its watchdog is reset, and learns why', async (t) => {
  await using vm = await bootGuest({ machine: { watchdog: true } });
  const logs: string[] = [];
  vm.on('log', (line) => logs.push(line));
  const status = 'cat /sys/class/watchdog/watchdog0/bootstatus';
  t.equal(await guestShell(vm, status), '0');
  await guestShell(vm, 'rmmod i6300esb; modprobe i6300esb heartbeat=4');
  const reset = once(vm, 'reboot');
  // Restarted for a while, it does nothing.
  await guestShell(vm, 'exec 3>/dev/watchdog; for i in 1 2 3 4 5 6; do echo >&3; sleep 1; done');
  t.same(logs, []);
  await reset;
  t.match(logs, [/^watchdog0: the guest did not restart it in time: it resets the machine/]);
  t.equal(await guestShell(vm, status), '32', 'WDIOF_CARDRESET');
});

t.test('two machines in one process', async (t) => {
  await using first = await bootGuest();
  await using second = await bootGuest();
  const [a, b] = await Promise.all([first.exec(['echo', 'a']), second.exec(['echo', 'b'])]);
  t.equal(a.stdout.toString() + b.stdout.toString(), 'a\nb\n');
});
