/** The agent in a real guest: it dies and comes back, ends terminals' input, and says how a guest ended. */
import t from 'tap';
import { bootGuest, guestShell } from '../support/rigs/guest.ts';

/** The agent ended; whether its successor came at once is the host's load. */
const LOST = { code: /^E_AGENT_(RESTARTED|GONE)$/, message: /^the guest agent ended[^\n]+$/ };

t.test('an agent that is killed comes back, and commands run again', async (t) => {
  await using vm = await bootGuest();
  for (let i = 0; i < 2; i++) {
    const second = t.rejects(vm.exec(['sleep', '1000']), LOST);
    await t.rejects(vm.exec(['sh', '-c', 'kill -9 $PPID; exec sleep 1000']), LOST);
    t.equal(await guestShell(vm, 'echo again'), 'again');
    await second;
    t.equal(await guestShell(vm, 'pidof sleep || echo none'), 'none', 'what it ran has gone');
  }
});

t.test('terminals: half a line, then the end', async (t) => {
  await using vm = await bootGuest();
  const tty = { columns: 80, rows: 25 };
  const script = 'n=$(wc -c); echo; echo "got $n"';
  const half = await vm.exec(['sh', '-c', script], { tty, input: 'half a line' });
  t.match(half.stdout.toString(), '\ngot 11\r\n');
  // busybox's shell edits its lines itself: it reads raw.
  const shell = await vm.exec(['sh'], { tty, input: 'echo $((6 * 7))\ncat\nhalf a line' });
  t.match(shell.stdout.toString(), '\n42\r\n');
  t.equal(shell.exitCode, 0);
});

t.test('exec has a limit', async (t) => {
  await using vm = await bootGuest();
  await t.rejects(vm.exec(['yes'], { maxBuffer: 100_000 }), { code: 'E_MAX_BUFFER' });
  t.equal(await guestShell(vm, 'echo on'), 'on');
});

for (const [how, script, says] of [
  ['powers off', 'poweroff -f', /^the guest powered off before/],
  ['shuts down', 'kill -USR2 1', /^the guest powered off before/],
  ['panics', 'echo c > /proc/sysrq-trigger', /^the guest's kernel panicked \(Kernel panic/],
] as const) {
  t.test(`commands fail when a guest ${how}`, async (t) => {
    await using vm = await bootGuest();
    const ended = { code: 'E_GUEST_ENDED', message: says };
    const undone = t.rejects(vm.exec(['sleep', '1000']), ended);
    await t.rejects(vm.exec(['sh', '-c', `${script}; exec sleep 1000`]), ended);
    await undone;
  });
}

t.test('commands fail at a reboot, and the next one waits', async (t) => {
  await using vm = await bootGuest();
  await t.rejects(vm.exec(['sh', '-c', 'reboot -f']), {
    code: 'E_GUEST_ENDED',
    message: /^the guest rebooted before/,
  });
  t.equal(await guestShell(vm, 'echo up'), 'up');
});
