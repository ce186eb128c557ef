/** More of nodevmm on Intel's virtualization than fits into each run: devices, power, exit statuses. */
import t from 'tap';
import { buildGuest } from '../../../src/guest/guests.ts';
import { packageFolder } from '../../../src/host/package-folder.ts';
import { Lab } from '../../../src/lab/lab.ts';

// A processor emulated step by step, on a host that has other things to do.
t.setTimeout(3_600_000);
const guest = await buildGuest('minimal');
const lab = await Lab.boot({ cpu: 'intel' });
t.teardown(() => lab.close());
const env = { NODE_V8_COVERAGE: '' };

const run = (...args: readonly string[]) =>
  lab.exec(['nodevmm', 'run', '--no-lab', '--check', '--memory', '256M', ...args], { env });

t.test('one vCPU', async (t) => {
  const { stdout, stderr, exitCode } = await run('--', 'sh', '-c', 'nproc; cat /proc/cpuinfo');
  t.match(stdout.toString(), /^1\n/);
  t.match(stdout.toString(), /^vendor_id\s*: GenuineIntel$/m);
  t.equal(exitCode, 0, stderr.toString());
});

/** One machine for all of it: a start takes a minute. Prints one line of JSON a step. */
const program = `
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { VirtualMachine } from ${JSON.stringify(`${packageFolder}/dist/bundle/bin/index.js`)};
const report = (step, value) => console.log(JSON.stringify([step, value]));
writeFileSync('/tmp/disk', Buffer.alloc(16 << 20));
const vm = await VirtualMachine.create({
  kernel: ${JSON.stringify(guest.kernel)},
  initrd: ${JSON.stringify(guest.initrd)},
  commandLine: 'earlycon=uart8250,io,0x3f8 console=hvc0 quiet panic=-1 nodevmm.ip=10.0.2.2/24',
  memory: 256 << 20,
  cpus: 2,
  check: true,
  disks: [{ path: '/tmp/disk' }],
  nets: [{ hostAddress: '10.0.2.1/24' }],
});
vm.on('breach', (breach) => report('breach', breach.text));
const sh = async (script) => {
  const { stdout, stderr, exitCode } = await vm.exec(['sh', '-c', script]);
  return exitCode === 0 ? stdout.toString() : 'status ' + exitCode + ': ' + stderr;
};
await vm.start();
report('disk', await sh(
  'dd if=/dev/urandom of=/tmp/f bs=64k count=32 2>/dev/null && dd if=/tmp/f of=/dev/vda bs=64k conv=fsync 2>/dev/null && ' +
  'echo 3 >/proc/sys/vm/drop_caches && head -c 2097152 /dev/vda | cmp - /tmp/f && echo same'));
report('ping', await sh('ping -c 2 10.0.2.1'));
await vm.pause();
const before = await vm.metrics();
// Idle vCPUs have timer ticks.
await new Promise((resolve) => setTimeout(resolve, 2000));
report('paused', JSON.stringify(before) === JSON.stringify(await vm.metrics()));
await vm.resume();
report('resumed', await sh('touch /marker && nproc'));
const reboot = once(vm, 'reboot');
vm.spawn(['reboot', '-f']).exit.catch(() => {});
await reboot;
report('rebooted', await sh('test ! -e /marker && nproc'));
vm.spawn(['poweroff', '-f']).exit.catch(() => {});
report('end', (await vm.wait()).reason);
await vm[Symbol.asyncDispose]();
`;

t.test('disk, network, pause, reboot and power-off of one machine', async (t) => {
  const argv = [process.execPath, '--input-type=module', '-e', program];
  const { stdout, stderr, exitCode } = await lab.exec(argv, { env });
  const lines = stdout.toString().trim().split('\n');
  const results = new Map(lines.map((line) => JSON.parse(line) as [string, unknown]));
  t.equal(exitCode, 0, stderr.toString());
  t.equal(results.get('disk'), 'same\n');
  t.match(results.get('ping'), / 0% packet loss/);
  t.equal(results.get('paused'), true, 'no vCPU exits while paused');
  t.equal(results.get('resumed'), '2\n');
  t.equal(results.get('rebooted'), '2\n', 'the second boot starts from the image');
  t.equal(results.get('end'), 'power-off');
  t.notOk(results.has('breach'), String(results.get('breach')));
});

for (const [name, status, args] of [
  ['a kernel panic', 200, ['--', 'sh', '-c', 'echo c > /proc/sysrq-trigger']],
  ['a triple fault', 201, ['--append', 'reboot=triple', '--', 'reboot', '-f']],
  ['a guest that powers off under its command', 203, ['--', 'poweroff', '-f']],
] as const) {
  t.test(`${name}: status ${status}`, async (t) => {
    const { stderr, exitCode } = await run(...args);
    t.equal(exitCode, status, stderr.toString());
  });
}

t.test('a lab that cannot boot shows the end of its console', async (t) => {
  const failing = Lab.boot({ cpu: 'intel', kernelArgs: 'rdinit=/no/such/init' });
  await t.rejects(failing, { code: 'E_LAB_GONE', message: /did not boot: bochs ended.*panic/s });
});

t.test('one that hangs is given up', async (t) => {
  const hanging = Lab.boot({ cpu: 'intel', kernelArgs: 'initcall_debug', bootTimeoutMs: 3000 });
  await t.rejects(hanging, { code: 'E_LAB_GONE', message: /did not boot: no answer in 3 s/ });
});

// The last one, since it ends the lab.
t.test('commands in a lab that dies get the reason', async (t) => {
  const waiting = lab.exec(['sleep', '100000']);
  const panicking = lab.exec(['sh', '-c', 'echo c >/proc/sysrq-trigger']);
  const why = { code: 'E_LAB_GONE', message: /the lab died: bochs ended.*sysrq triggered crash/s };
  await Promise.all([t.rejects(waiting, why), t.rejects(panicking, why)]);
});
