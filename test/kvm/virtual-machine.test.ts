/** A machine from creation to disposal, with kernels of a few bytes that any /dev/kvm runs. */
import {
  accessSync,
  constants,
  existsSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { probeKvm } from '../../src/kvm/probe.ts';
import type { MachineOptions } from '../../src/machine/options.ts';
import { VirtualMachine } from '../../src/machine/virtual-machine.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import {
  ECHO,
  elfKernel,
  HALT,
  KERNEL_GPA,
  linuxImage,
  out,
  print,
  printMuch,
} from '../support/fixtures/kernel-image.ts';
import { traceEvents, traceFaults } from '../support/fixtures/trace-format.ts';
import { testFolder } from '../support/rigs/files.ts';
import { tapReason } from '../support/rigs/host.ts';
import { kvmMissing } from './tiny-guest.ts';

const skip = kvmMissing();
const folder = testFolder(t);

let kernels = 0;
function machine(code: readonly number[], options: Partial<MachineOptions> = {}) {
  const kernel = path.join(folder, `kernel${kernels++}`);
  const bytes = Uint8Array.from(code);
  writeFileSync(
    kernel,
    elfKernel({ segments: [{ paddr: KERNEL_GPA, bytes }], pvhEntry: KERNEL_GPA }),
  );
  return VirtualMachine.create({ kernel, memory: 64 * MiB, rng: false, ...options });
}

/** Resolves when the serial port has printed this. */
async function printed(vm: VirtualMachine, text: string): Promise<string> {
  let all = '';
  for await (const bytes of vm.serial.iterator({ destroyOnReturn: false })) {
    all += bytes;
    if (all.includes(text)) break;
  }
  return all;
}

for (const [name, code, reason] of [
  ['ACPI power-off', out(0x605, 0x34), 'power-off'],
  ['the FADT’s reset register', out(0x608, 1), 'reboot'],
  ['the keyboard controller', out(0x64, 0xfe), 'reboot'],
  ['pvpanic', out(0x505, 1), 'panic'],
] as const) {
  t.test(`a run ends by ${name}`, { skip }, async (t) => {
    await using vm = await machine([...code, ...HALT], { onReboot: 'exit' });
    const exits: unknown[] = [];
    vm.on('exit', (exit) => exits.push(exit));
    await vm.start();
    const exit = await vm.wait();
    t.equal(exit.reason, reason);
    await vm.stop();
    t.same(exits, [exit], 'reported once');
  });
}

t.test('what the guest prints at its end is not lost', { skip }, async (t) => {
  await using vm = await machine([...print('last words\n'), ...out(0x605, 0x34), ...HALT]);
  const all = printed(vm, '\n');
  await vm.start();
  t.equal((await vm.wait()).reason, 'power-off');
  t.equal(await all, 'last words\n');
});

t.test('a guest whose serial port is unread runs to its end', { skip }, async (t) => {
  const times = 10_000;
  await using vm = await machine([...printMuch(times), ...out(0x605, 0x34), ...HALT]);
  vm.serial.pause();
  await vm.start();
  t.equal((await vm.wait()).reason, 'power-off');
  let got = 0;
  for (let bytes: unknown = vm.serial.read(); bytes !== null; bytes = vm.serial.read()) {
    got += (bytes as Buffer).length;
  }
  t.equal(got, 16 * times, 'and below the bound nothing is lost');
  t.same(vm.droppedOutput, { console: 0, serial: 0 });
});

t.test('a traced run: every exit is in the file and in the summary', { skip }, async (t) => {
  const file = path.join(folder, 'trace.json');
  const vm = await machine([...print('traced\n'), ...out(0x605, 0x34), ...HALT], {
    trace: { file },
    check: true,
  });
  t.same((await vm.traceSummary())?.exits, []);
  await vm.start();
  t.equal((await vm.wait()).reason, 'power-off');
  const traceSummary = await vm.traceSummary();
  await vm[Symbol.asyncDispose]();
  const text = readFileSync(file, 'utf8');
  t.same(traceFaults(text), []);
  const exits = traceEvents(text).filter(({ ph }) => ph === 'X');
  // The one that ended the run is not left again.
  t.equal(exits.filter(({ args }) => args?.address === '0x3f8').length, 'traced\n'.length);
  t.equal(traceSummary?.exits[0]?.count, exits.length);
  t.same(vm.breaches, []);
});

t.test('a trace on a full disk ends, and its machine continues', { skip }, async (t) => {
  const options = { trace: { file: '/dev/full' } };
  await using vm = await machine([...print('traced\n'), ...out(0x605, 0x34), ...HALT], options);
  const logs: string[] = [];
  vm.on('log', (text) => logs.push(text));
  await vm.start();
  t.equal((await vm.wait()).reason, 'power-off');
  t.match(logs, [/^the trace in \/dev\/full ends here: no space left on device \(ENOSPC\)$/]);
});

t.test('a trace that cannot be written', { skip }, async (t) => {
  await t.rejects(machine(HALT, { trace: { file: folder } }), { code: 'E_TRACE' });
  const link = path.join(folder, 'link');
  symlinkSync(path.join(folder, 'elsewhere'), link);
  await t.rejects(machine(HALT, { trace: { file: link } }), { code: 'E_TRACE' });
  t.equal(existsSync(path.join(folder, 'elsewhere')), false, 'nothing is made through a link');
  await using vm = await machine(HALT);
  t.equal(await vm.traceSummary(), undefined);
});

t.test('serial input reaches the guest', { skip }, async (t) => {
  await using vm = await machine(ECHO);
  await vm.start();
  vm.serial.write('hello\n');
  t.equal(await printed(vm, '\n'), 'hello\n');
});

t.test('a reboot starts the guest again', { skip }, async (t) => {
  await using vm = await machine([...print('boot\n'), ...out(0x64, 0xfe), ...HALT]);
  let reboots = 0;
  const twice = new Promise<void>((resolve) => {
    vm.on('reboot', () => {
      reboots++;
      if (reboots === 2) resolve();
    });
  });
  await vm.start();
  await twice;
  await vm.stop();
  t.equal((await vm.wait()).reason, 'stopped');
});

t.test('a paused guest does nothing until it is resumed', { skip }, async (t) => {
  await using vm = await machine(ECHO, { cpus: 2 });
  await vm.start();
  vm.serial.write('a');
  t.equal(await printed(vm, 'a'), 'a');
  await vm.pause();
  const before = await vm.metrics();
  t.ok((before.kvm.exits ?? 0) > 0, 'KVM counts them, too');
  vm.serial.write('b');
  await new Promise((resolve) => setImmediate(resolve));
  t.same(await vm.metrics(), before);
  await vm.resume();
  t.equal(await printed(vm, 'b'), 'b');
});

/** The guest's kvm-clock page, and the bit of its `flags` that marks a pause (KVM_KVMCLOCK_CTRL). */
const CLOCK_PAGE = 0x20_0000;
const CLOCK_FLAGS = CLOCK_PAGE + 29;
const PVCLOCK_GUEST_STOPPED = 2;
const dword = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >> shift) & 0xff);
/** Has a kvm-clock, prints a dot, and answers each byte with the flags of the clock as a digit. */
const CLOCK = [
  ...[0xb9, ...dword(0x4b56_4d01)], // mov ecx, MSR_KVM_SYSTEM_TIME_NEW
  ...[0xb8, ...dword(CLOCK_PAGE | 1), 0x31, 0xd2, 0x0f, 0x30], // mov eax, page; xor edx, edx; wrmsr
  ...print('.'),
  ...[0x66, 0xba, 0xfd, 0x03], // mov dx, 0x3fd
  ...[0xec, 0xa8, 0x01], // in al, dx; test al, 1
  ...[0x74, 0xfb], // jz -5
  ...[0x66, 0xba, 0xf8, 0x03, 0xec], // mov dx, 0x3f8; in al, dx
  ...[0xa0, ...dword(CLOCK_FLAGS)], // mov al, [flags]
  ...[0x24, PVCLOCK_GUEST_STOPPED, 0x04, 0x30, 0xee], // and al, 2; add al, '0'; out dx, al
  ...[0xeb, 0xe6], // jmp -26
];

t.test('each pause is marked for a guest with a kvm-clock', { skip }, async (t) => {
  await using vm = await machine(CLOCK, { cpus: 1 });
  await vm.start();
  t.equal(await printed(vm, '.'), '.');
  vm.serial.write('a');
  t.equal(await printed(vm, '0'), '0');
  await vm.pause();
  await vm.resume();
  vm.serial.write('b');
  t.equal(await printed(vm, '2'), '2');
});

t.test('pausing, resuming and stopping in any order of calls', { skip }, async (t) => {
  await using vm = await machine(ECHO, { cpus: 2 });
  await vm.start();
  for (let i = 0; i < 5; i++) {
    const paused = vm.pause();
    await vm.resume();
    await paused;
  }
  await t.rejects(vm.resume(), { code: 'E_STATE' });
  const pausing = vm.pause();
  await vm.stop();
  await pausing;
  t.equal((await vm.wait()).reason, 'stopped');
  await t.rejects(vm.start(), { code: 'E_STATE' });
});

t.test('stopping before the start ends it', { skip }, async (t) => {
  await using vm = await machine(HALT);
  await vm.stop();
  t.equal((await vm.wait()).reason, 'stopped');
  await t.rejects(vm.start(), { code: 'E_STATE' });
});

t.test('stopping while it starts ends it, once', { skip }, async (t) => {
  await using vm = await machine(HALT);
  const exits: unknown[] = [];
  vm.on('exit', (exit) => exits.push(exit));
  const starting = vm.start();
  await vm.stop();
  await starting;
  t.same(exits, [{ reason: 'stopped' }]);
  await t.rejects(vm.pause(), { code: 'E_STATE' });
});

t.test('a machine is started once', { skip }, async (t) => {
  await using vm = await machine(HALT);
  const starting = vm.start();
  await t.rejects(vm.start(), { code: 'E_STATE' });
  await starting;
});

t.test('a start that failed can be tried again, or stopped', { skip }, async (t) => {
  await using vm = await VirtualMachine.create({ kernel: path.join(folder, 'none'), rng: false });
  await t.rejects(vm.start(), { name: 'UsageError' });
  const again = vm.start();
  const stopped = vm.stop();
  await t.rejects(again, { name: 'UsageError' });
  await stopped;
  t.equal((await vm.wait()).reason, 'stopped');
});

t.test('several machines run in one process', { skip }, async (t) => {
  const vms = await Promise.all(['one\n', 'two\n', 'three\n'].map((text) => machine(print(text))));
  const texts = vms.map((vm) => printed(vm, '\n'));
  await Promise.all(vms.map((vm) => vm.start()));
  t.same(await Promise.all(texts), ['one\n', 'two\n', 'three\n']);
  for (const vm of vms) await vm[Symbol.asyncDispose]();
});

t.test('Linux is refused at once by a KVM that cannot run it', { skip }, async (t) => {
  const kernel = path.join(folder, 'linux');
  writeFileSync(kernel, linuxImage('6.12.48'));
  const creating = VirtualMachine.create({ kernel, rng: false });
  if (probeKvm().usable) {
    await using vm = await creating;
    t.equal(vm.state, 'created');
    return;
  }
  await t.rejects(creating, {
    name: 'UsageError',
    code: 'E_KVM',
    problem: /^this host's KVM cannot run Linux: software KVM: [^;]*$/,
    remedy: /virtualization.*--lab.*lab: 'auto'/,
  });
  await t.rejects(VirtualMachine.create({ guest: 'minimal' }), { code: 'E_KVM' });
  const nothing = undefined as unknown as MachineOptions;
  await t.rejects(VirtualMachine.create(nothing), { code: 'E_OPTION' });
});

const hasVhost = (device: string): boolean => {
  try {
    accessSync(device, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
};

t.test(
  'vhost is had, refused in one line, or done without',
  { skip: skip || tapReason() },
  async (t) => {
    const nets = (vhost: 'on' | 'off' | 'auto') => ({ nets: [{ vhost }] });
    const place = hasVhost('/dev/vhost-net') ? 'vhost' : 'userspace';
    if (place === 'vhost') {
      await using vm = await machine(HALT, nets('on'));
      t.equal(vm.datapaths.get('net0'), 'vhost');
    } else {
      await t.rejects(machine(HALT, nets('on')), { code: 'E_VHOST', message: /^[^\n]*vhost=off$/ });
    }
    await using vm = await machine(HALT, nets('auto'));
    const logs: string[] = [];
    vm.on('log', (text) => logs.push(text));
    await vm.start();
    t.equal(vm.datapaths.get('net0'), place);
    t.equal(logs.length, place === 'vhost' ? 0 : 1, logs.join('; '));
    await t.rejects(vm.moveDatapath('net7', 'vhost'), { code: 'E_DEVICE', message: /net0/ });
    await t.rejects(vm.moveDatapath('console0', 'vhost'), { code: 'E_DATAPATH' });
    await t.rejects(vm.moveDatapath('net0', 'vdpa'), {
      code: 'E_DATAPATH',
      message: /^net0 cannot move to vdpa, where .*; start the machine with a device by vdpa=$/,
    });
    await vm.moveDatapath('net0', 'userspace');
    t.equal(vm.datapaths.get('net0'), 'userspace');
    await vm.stop();
    await t.rejects(vm.moveDatapath('net0', 'vhost'), { code: 'E_STATE' });
  },
);

t.test('vhost-vsock is had, refused in one line, or done without', { skip }, async (t) => {
  const socket = path.join(folder, 'vm.sock');
  const place = hasVhost('/dev/vhost-vsock') ? 'vhost' : 'userspace';
  const on = { vsock: { cid: 99, vhost: 'on' } } as const;
  if (place === 'vhost') {
    await using vm = await machine(HALT, on);
    t.equal(vm.datapaths.get('vsock0'), 'vhost');
  } else {
    await t.rejects(machine(HALT, on), { code: 'E_VHOST', message: /^[^\n]*vhost=off$/ });
  }
  await using vm = await machine(HALT, { vsock: { cid: 99, path: socket, vhost: 'auto' } });
  const logs: string[] = [];
  vm.on('log', (text) => logs.push(text));
  await vm.start();
  t.equal(vm.datapaths.get('vsock0'), place);
  t.equal(logs.length, place === 'vhost' ? 0 : 1, logs.join('; '));
  t.ok(existsSync(socket));
  await vm[Symbol.asyncDispose]();
  t.notOk(existsSync(socket));
});
