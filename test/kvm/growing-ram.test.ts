/** Blocks of a memory device as memory slots of KVM. */

import { writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { Kvm } from '../../src/kvm/kvm.ts';
import { Vm } from '../../src/kvm/vm.ts';
import { MachineGrowth } from '../../src/machine/growing-ram.ts';
import { VirtualMachine } from '../../src/machine/virtual-machine.ts';
import { Ram } from '../../src/memory/ram.ts';
import { GiB, MiB } from '../../src/memory/ram-layout.ts';
import { MemDevice } from '../../src/virtio/device/mem/mem.ts';
import { elfKernel, KERNEL_GPA, out } from '../support/fixtures/kernel-image.ts';
import { testFolder } from '../support/rigs/files.ts';
import { kvmMissing } from './tiny-guest.ts';

const skip = kvmMissing();
const folder = testFolder(t);

t.test('sections come and go', { skip }, async (t) => {
  using ram = new Ram(64 * MiB, 'anonymous', true, { growth: GiB });
  using kvm = Kvm.open();
  using vm = new Vm(kvm);
  const device = new MemDevice('mem0');
  const logs: string[] = [];
  using growth = new MachineGrowth(ram.memory, device, (text) => logs.push(text));
  vm.setMemory(ram.memory);
  growth.powerOn(vm, 8);
  t.ok(growth.plug(0, 1));
  t.ok(growth.plug(63, 66), 'in three sections');
  // KVM lets no two slots overlap: one is where the first block is, none behind the last one.
  const overlap = (block: number): void =>
    vm.setMemorySlot(100, growth.gpa + block * 2 * MiB, 2 * MiB, ram.memory.address);
  t.throws(() => overlap(0), { name: 'HostError', code: 'EEXIST' });
  t.throws(() => overlap(128), { code: 'EEXIST' });
  t.doesNotThrow(() => overlap(192));
  growth.unplug(0, 512);
  vm.setMemorySlot(100, 0, 0, 0);
  t.doesNotThrow(() => overlap(0));
  t.notOk(growth.plug(0, 1), 'another one is there');
  t.match(logs, [/^mem0: .*KVM_SET_USER_MEMORY_REGION/]);
});

t.test(
  'a machine with a balloon and a memory device, from power-on to its end',
  { skip },
  async (t) => {
    const kernel = path.join(folder, 'kernel');
    const bytes = Uint8Array.from(out(0x605, 0x34));
    const segments = [{ paddr: KERNEL_GPA, bytes }];
    writeFileSync(kernel, elfKernel({ segments, pvhEntry: KERNEL_GPA }));
    const memory = 64 * MiB;
    await using vm = await VirtualMachine.create({
      kernel,
      memory,
      balloon: true,
      memoryDevice: { max: GiB },
    });
    t.same(vm.memory, { target: memory, current: memory, max: GiB });
    await vm.setMemory(GiB);
    vm.balloon.target = 32 * MiB;
    await vm.start();
    t.equal((await vm.wait()).reason, 'power-off');
    t.same(vm.memory, { target: GiB, current: memory, max: GiB });
    t.same(vm.balloon.state, { target: 32 * MiB, current: memory });
    await t.rejects(vm.setMemory(GiB), { code: 'E_STATE' });
  },
);
