/** How runs of a guest end, and reboots. */
import { once } from 'node:events';
import t from 'tap';
import { bootGuest, exitsOf, guestShell } from '../support/rigs/guest.ts';

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

t.test('two machines in one process', async (t) => {
  await using first = await bootGuest();
  await using second = await bootGuest();
  const [a, b] = await Promise.all([first.exec(['echo', 'a']), second.exec(['echo', 'b'])]);
  t.equal(a.stdout.toString() + b.stdout.toString(), 'a\nb\n');
});
