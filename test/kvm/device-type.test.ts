/** A new type of device: its folder and one line in the registry are all that it takes. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Command } from 'commander';
import t from 'tap';
import { addMachineOptions, machineOptions } from '../../src/cli/run/run-options.ts';
import { createServedDevice, registerServeCommand } from '../../src/cli/serve.ts';
import { DEVICE_TYPES } from '../../src/machine/devices/device-types.ts';
import type { MachineOptions } from '../../src/machine/options.ts';
import { VirtualMachine } from '../../src/machine/virtual-machine.ts';
import { elfKernel, HALT, KERNEL_GPA } from '../support/fixtures/kernel-image.ts';
import { toyType } from '../support/fixtures/toy/toy-type.ts';
import { kvmMissing } from './tiny-guest.ts';

DEVICE_TYPES.push(toyType);

const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-test-'));
t.teardown(() => rmSync(folder, { recursive: true }));
const kernel = path.join(folder, 'kernel');
const segments = [{ paddr: KERNEL_GPA, bytes: Uint8Array.from(HALT) }];
writeFileSync(kernel, elfKernel({ segments, pvhEntry: KERNEL_GPA }));

function optionsOf(...args: string[]): MachineOptions {
  const command = addMachineOptions(new Command('run')).exitOverride();
  return { kernel, ...machineOptions(command.parse(args, { from: 'user' }).opts()) };
}

t.test('help shows its option and keys', async (t) => {
  const help = addMachineOptions(new Command('run')).helpInformation();
  t.match(help, /--toy <size,...> +a toy; may be repeated; keys:\s+color=red\|blue\s+transport=/);
  const program = new Command();
  registerServeCommand(program, () => {});
  t.match(program.commands[0]?.helpInformation(), / toy,\s+or\s+a\s+file/);
});

t.test('run makes it and inspect shows it', { skip: kvmMissing() }, async (t) => {
  const options = optionsOf('--toy', '7,color=red,transport=mmio', '--toy', '2', '--memory', '64M');
  t.match(options, { toys: [{ size: 7, color: 'red', transport: 'mmio' }, { size: 2 }] });
  await using vm = await VirtualMachine.create(options);
  await vm.start();
  const { devices } = await vm.inspect();
  const toys = devices.filter(({ name }) => name.startsWith('toy'));
  t.match(toys, [
    { name: 'toy0', deviceId: 42, place: /^MMIO/, config: '07000000' },
    { name: 'toy1', place: /^PCI/, config: '02000000', queues: [{ name: 'toys' }] },
  ]);
});

t.test('serve makes it', async (t) => {
  const { device, ring } = await createServedDevice('toy', '5,packed=off');
  t.match(device, { name: 'toy0', deviceId: 42 });
  t.same(device.config, Uint8Array.of(5, 0, 0, 0));
  t.same(ring, { packed: false });
  device.close();
});

t.test('what it cannot be is refused, from the command line and from code', async (t) => {
  t.throws(() => optionsOf('--toy', '10'), { message: /has size=10; size must be 1 to 9/ });
  t.throws(() => optionsOf('--toy', '1,colour=red'), { message: /colour; did you mean color\?/ });
  const toys = [{ size: 1, colour: 'red' }];
  await t.rejects(VirtualMachine.create({ kernel, toys } as MachineOptions), {
    message: 'unknown option colour of toys[0]; did you mean color?',
  });
});
