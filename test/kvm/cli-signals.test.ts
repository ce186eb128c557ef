/** Runs that a signal ends: status 128 + its number, and nothing of the run is left. */
import { truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout } from 'node:timers/promises';
import t from 'tap';
import { ask } from '../../src/machine/control/client.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { elfKernel, KERNEL_GPA } from '../support/fixtures/kernel-image.ts';
import { CliRun } from '../support/rigs/cli-run.ts';
import { testFolder } from '../support/rigs/files.ts';
import { tapReason } from '../support/rigs/host.ts';
import { kvmMissing } from './tiny-guest.ts';

const skip = kvmMissing() || tapReason();
const folder = testFolder(t);

/** Prints a letter on the serial port, then loops forever: only a kick gets it out of KVM. */
const BUSY = [
  ...[0x66, 0xba, 0xf8, 0x03], // mov dx, 0x3f8
  ...[0xb0, 0x55, 0xee], // mov al, 'U'; out dx, al
  ...[0xeb, 0xfe], // jmp -2
];
/** Prints it forever. */
const CHATTY = [...BUSY.slice(0, -2), 0xeb, 0xfd]; // jmp to the out

function kernelOf(name: string, code: readonly number[]): string {
  const file = path.join(folder, name);
  const segments = [{ paddr: KERNEL_GPA, bytes: Uint8Array.from(code) }];
  writeFileSync(file, elfKernel({ segments, pvhEntry: KERNEL_GPA }));
  return file;
}

const kernel = kernelOf('kernel', BUSY);
const disk = path.join(folder, 'disk.raw');
writeFileSync(disk, '');
truncateSync(disk, MiB);
const ARGS = [
  ...['--kernel', kernel, '--cpus', '2', '--console', 'none', '--serial', 'tty'],
  ...['--disk', disk, '--net', 'tap=nodevmm-signal'],
];

for (const [signal, status] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  t.test(`${signal} while the guest runs`, { skip }, async (t) => {
    const socket = path.join(folder, 'tmp', 'vm.sock');
    const run = new CliRun(folder, [...ARGS, '--vsock', `cid=3,path=${socket}`]);
    await run.shows('U');
    t.equal(run.leftovers([disk]).length, 5, 'it has a tap, two sockets, a lock and a process');
    run.process.kill(signal);
    t.match(await run.result, { status, stderr: '' });
    t.same(run.leftovers([disk]), []);
  });
}

for (const [how, args, status, says] of [
  ['the guest', [], 0, ''],
  [
    'its command',
    ['--', 'true'],
    143,
    'nodevmm: the machine was stopped before the command true had ended\n',
  ],
] as const) {
  t.test(`vm stop before ${how} ends`, { skip }, async (t) => {
    const run = new CliRun(folder, [...ARGS, ...args]);
    await run.shows('U');
    process.env.XDG_RUNTIME_DIR = path.join(folder, 'tmp');
    t.equal((await ask(String(run.process.pid), { call: 'stop' })).state, 'ended');
    t.match(await run.result, { status, stderr: says });
    t.same(run.leftovers([disk]), []);
  });
}

// The latter is how a thread ends that crashes in native code.
for (const signal of ['SIGKILL', 'SIGSEGV'] as const) {
  t.test(`${signal} leaves a socket, which the next run removes`, { skip }, async (t) => {
    const run = new CliRun(folder, ARGS);
    await run.shows('U');
    run.process.kill(signal);
    t.match(await run.result, { status: signal });
    t.same(run.leftovers([disk]), [`vm-${run.process.pid}.sock`]);
    const next = new CliRun(folder, ARGS);
    await next.shows('U');
    next.process.kill('SIGTERM');
    await next.result;
    t.same(next.leftovers([disk]), []);
  });
}

t.test('a reader that leaves ends the run, as SIGPIPE would', { skip }, async (t) => {
  const chatty = [...ARGS, '--kernel', kernelOf('chatty', CHATTY)];
  const run = new CliRun(folder, chatty);
  await run.shows('U');
  run.process.stdout?.destroy();
  t.match(await run.result, { status: 141, stderr: '' });
  t.same(run.leftovers([disk]), []);
});

/** A device whose thread never ends, and cannot be ended from outside. */
const STUCK = `
  import { isMainThread } from 'node:worker_threads';
  import { defineDevice } from 'nodevmm/device';
  if (!isMainThread) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  export default defineDevice({ deviceId: 42, queues: { a: { handle() {} } } });`;

t.test('a second signal ends a run whose threads cannot be ended', { skip }, async (t) => {
  const file = path.join(folder, 'stuck.ts');
  writeFileSync(file, STUCK);
  const socket = path.join(folder, 'tmp', 'vm.sock');
  const stuck = [...ARGS, '--vsock', `cid=3,path=${socket}`, '--device', `${file},thread=worker`];
  const run = new CliRun(folder, stuck);
  await run.shows('U');
  run.process.kill('SIGTERM');
  // Another one, since two of the same kind that wait are one.
  run.process.kill('SIGINT');
  t.match(await run.result, { status: /^(130|143)$/, stderr: '' });
  // The compiler, a process of its own, sees a moment later that its owner is gone.
  while (run.leftovers([disk]).length > 0) await setTimeout(10);
});
