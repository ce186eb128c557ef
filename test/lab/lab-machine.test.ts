/** Machines that a program on this host has in the lab, with the API of those that it has here. */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { buildGuest } from '../../src/guest/guests.ts';
import { VirtualMachine } from '../../src/machine/virtual-machine.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { testFolder } from '../support/rigs/files.ts';

t.setTimeout(900_000);
const folder = testFolder(t);
const { kernel, initrd } = await buildGuest('minimal');
const options = { kernel, initrd, memory: 256 * MiB, lab: 'always' } as const;

t.test('what cannot be is refused as here', async (t) => {
  const wrong = { ...options, memroy: 1 };
  await t.rejects(VirtualMachine.create(wrong), { name: 'UsageError', code: 'E_OPTION' });
  const path = join(folder, 'absent.raw');
  await t.rejects(VirtualMachine.create({ ...options, disks: [{ path }] }), {
    name: 'UsageError',
    message: /absent\.raw/,
  });
});

t.test('a guest with a disk of this host: commands, consoles, events, end', async (t) => {
  const path = join(folder, 'data.raw');
  writeFileSync(path, Buffer.alloc(MiB));
  const trace = join(folder, 'trace.json');
  await using vm = await VirtualMachine.create({
    ...options,
    disks: [{ path }],
    trace: { file: trace },
    check: true,
  });
  t.equal(vm.state, 'created');
  const states: string[] = [];
  vm.on('state', (state) => states.push(state));
  let console = '';
  vm.console.on('data', (chunk: Buffer) => {
    console += chunk.toString('latin1');
  });
  await vm.start();
  await vm.ready();
  const { stdout, exitCode } = await vm.exec(['sh', '-c', 'read line; echo "got $line"; exit 7'], {
    input: 'a word\n',
  });
  t.equal(stdout.toString(), 'got a word\n');
  t.equal(exitCode, 7);
  await vm.exec(['sh', '-c', 'modprobe virtio_blk; printf on-disk | dd of=/dev/vda conv=fsync']);
  t.equal(readFileSync(path).subarray(0, 7).toString(), 'on-disk');
  await vm.exec(['sh', '-c', 'echo on-the-console >/dev/hvc0']);
  t.ok((await vm.inspect()).devices.some(({ name }) => name === 'blk0'));
  t.ok(((await vm.metrics()).exits.KVM_EXIT_IO ?? 0) > 0);
  await vm.pause();
  t.equal(vm.state, 'paused');
  await vm.resume();
  const cut = vm.exec(['sleep', '600']);
  cut.catch(() => {});
  await vm.pressPowerButton();
  t.match(await vm.wait(), { reason: 'power-off', asked: true });
  await t.rejects(cut, { name: 'PeerError', code: 'E_GUEST_ENDED', message: /powered off/ });
  t.match(console, /on-the-console/);
  t.same(vm.breaches, []);
  t.ok((await vm.traceSummary())?.devices.some(({ name }) => name === 'blk0'));
  await vm.close();
  t.equal(vm.state, 'disposed');
  t.ok(existsSync(trace) && statSync(trace).size > 0);
  t.same(states.slice(0, 2), ['starting', 'running']);
  t.equal(states.at(-1), 'ended');
});

t.test('the next machine finds the lab booted', async (t) => {
  const steps: string[] = [];
  await using _vm = await VirtualMachine.create({
    ...options,
    onProgress: (step) => steps.push(step),
  });
  // Another one than that which may write to the folder of the disk.
  await using _other = await VirtualMachine.create({
    guest: 'minimal',
    lab: 'always',
    onProgress: () => t.fail('it is there already'),
  });
  t.equal(steps.at(-1), 'lab: ready');
});
