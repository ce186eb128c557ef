/** Base address registers (PCI 3.0 §6.2.5), seen from a guest that sizes and moves them. */
import t from 'tap';
import * as pci from '../../../src/abi/pci.ts';
import { AddressSpace, type RegisterRegion } from '../../../src/bus/address-space.ts';
import type { BarSpec } from '../../../src/pci/bars.ts';
import { PciBus } from '../../../src/pci/bus.ts';
import { PciFunction, type PciIdentity } from '../../../src/pci/function.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import { FakeInterrupts } from '../../support/fakes/interrupts.ts';
import { VirtioPciRig } from '../../support/rigs/virtio-pci.ts';

const { command, base_address } = pci.pci_type0_header;
const IO_AND_MEMORY = pci.PCI_COMMAND_IO | pci.PCI_COMMAND_MEMORY;

const IDENTITY: PciIdentity = {
  vendorId: 1,
  deviceId: 2,
  revision: 0,
  classCode: 0,
  subsystemVendorId: 0,
  subsystemId: 0,
  interruptPin: false,
};

class Scratch implements RegisterRegion {
  last = -1;
  read(offset: number): number {
    return offset & 0xff;
  }
  write(offset: number): void {
    this.last = offset;
  }
}

/** One function with one BAR. */
function withBar(kind: BarSpec['kind'], size: number, address: number) {
  const state = new SharedState(SharedState.allocate(0x1000));
  const ports = new AddressSpace();
  const memory = new AddressSpace();
  const port = new FakeInterrupts();
  const bus = new PciBus(state, ports, memory);
  const fn = new PciFunction(state, port, 'test', IDENTITY);
  const region = new Scratch();
  fn.addBar(0, { kind, size, region }, address);
  fn.bars.addDoorbell(0, 8, 77);
  bus.add(1, fn);
  bus.reset();
  return {
    fn,
    port,
    region,
    bar: (half = 0) => fn.readConfig(base_address.offset + 4 * half, 4),
    setBar: (value: number, half = 0) => {
      fn.writeConfig(base_address.offset + 4 * half, 4, value);
    },
    setCommand: (value: number) => fn.writeConfig(command.offset, 2, value),
    read: (address: number) => {
      bus.refresh();
      return (kind === 'io' ? ports : memory).read(address, 1);
    },
  };
}

for (const size of [16, 0x100, 0x1000, 0x10_0000]) {
  t.test(`PCI 3.0 §6.2.5.1 a 32-bit memory BAR of ${size} bytes is sized`, async (t) => {
    const f = withBar('memory', size, 0xd000_0000);
    t.equal(f.bar(), 0xd000_0000);
    f.setBar(0xffff_ffff);
    t.equal(f.bar(), 2 ** 32 - size, 'memory, anywhere in 32 bits, not prefetchable');
    f.setBar(0xd000_0000);
    t.equal(f.bar(), 0xd000_0000);
  });

  t.test(`PCI 3.0 §6.2.5.1 a 64-bit memory BAR of ${size} bytes is sized`, async (t) => {
    const f = withBar('memory64', size, 0x8_0000_0000);
    t.same([f.bar(0), f.bar(1)], [0x0c, 8]);
    f.setBar(0xffff_ffff, 0);
    f.setBar(0xffff_ffff, 1);
    t.same([f.bar(0), f.bar(1)], [2 ** 32 - size + 0x0c, 0xffff_ffff]);
  });
}

t.test('PCI 3.0 §6.2.5.1 a 64-bit BAR is decoded above 4 GiB', async (t) => {
  const f = withBar('memory64', 0x1000, 0x8_0000_0000);
  f.setCommand(IO_AND_MEMORY);
  t.equal(f.read(0x8_0000_0042), 0x42);
  f.setBar(9, 1);
  t.equal(f.read(0x8_0000_0042), 0xff);
  t.equal(f.read(0x9_0000_0042), 0x42);
  t.same([...f.port.doorbells.keys()], ['memory:900000008']);
});

for (const size of [4, 16, 64, 256]) {
  t.test(`PCI 3.0 §6.2.5.1 an I/O BAR of ${size} ports is sized`, async (t) => {
    const f = withBar('io', size, 0x1000);
    t.equal(f.bar(), 0x1001);
    f.setBar(0xffff_ffff);
    t.equal(f.bar() & 0xffff, 0x1_0000 - size + 1);
    f.setBar(0x2000);
    t.equal(f.bar(), 0x2001);
  });
}

t.test('PCI 3.0 §6.2.5.1 an I/O BAR beyond the 64 Ki ports is not decoded', async (t) => {
  const f = withBar('io', 16, 0x1000);
  f.setCommand(IO_AND_MEMORY);
  f.setBar(0x5_2000);
  t.equal(f.read(0x2004), 0xff);
  t.equal(f.port.doorbells.size, 0);
});

for (const [kind, own, other, at, name] of [
  ['memory', pci.PCI_COMMAND_MEMORY, pci.PCI_COMMAND_IO, 0xd000_0000, 'memory:d0000008'],
  ['io', pci.PCI_COMMAND_IO, pci.PCI_COMMAND_MEMORY, 0x3000, 'io:3008'],
] as const) {
  t.test(`PCI 3.0 §6.2.2 ${kind} is decoded only while its command bit is set`, async (t) => {
    const f = withBar(kind, 0x20, at);
    t.equal(f.read(at + 5), 0xff, 'not at reset');
    f.setCommand(other);
    t.equal(f.read(at + 5), 0xff);
    f.setCommand(own);
    t.equal(f.read(at + 5), 5);
    f.setCommand(0);
    t.equal(f.read(at + 5), 0xff);
  });

  t.test(`doorbells in ${kind} follow decoding and the BAR`, async (t) => {
    const f = withBar(kind, 0x20, at);
    t.same(f.port.take(), []);
    f.setCommand(own);
    t.same(f.port.take(), [`doorbell ${name}`]);
    f.setCommand(own);
    t.same(f.port.take(), [], 'nothing changed');
    f.setBar(at + 0x100);
    t.equal(f.port.doorbells.size, 1);
    t.not([...f.port.doorbells.keys()][0], name);
    f.setBar(at);
    t.same([...f.port.doorbells.keys()], [name]);
    f.setCommand(0);
    t.equal(f.port.doorbells.size, 0);
  });
}

t.test('PCI 3.0 §6.2.5 BARs that are not there read as zero', async (t) => {
  const f = withBar('memory', 0x20, 0xd000_0000);
  f.setBar(0xffff_ffff, 1);
  t.equal(f.bar(1), 0);
});

t.test('PCI 3.0 §6.2.5 a byte of a BAR can be written', async (t) => {
  const f = withBar('memory', 0x1000, 0xd000_0000);
  f.fn.writeConfig(base_address.offset + 3, 1, 0xd8);
  t.equal(f.bar(), 0xd800_0000);
});

t.test('of two BARs in one place the first is decoded, and neither doorbell is lost', async (t) => {
  using rig = new VirtioPciRig({ slots: [1, 2] });
  rig.enableDecoding(1);
  rig.enableDecoding(2);
  const [first, second] = [rig.bar(4, 1), rig.bar(4, 2)];
  rig.setBar(4, first, 2);
  t.equal(rig.port.doorbells.get(`memory:${first.toString(16)}`), rig.devices[0]?.plan.kicks[0]);
  rig.setBar(4, second, 2);
  t.equal(rig.port.doorbells.get(`memory:${first.toString(16)}`), rig.devices[0]?.plan.kicks[0]);
  t.equal(rig.port.doorbells.get(`memory:${second.toString(16)}`), rig.devices[1]?.plan.kicks[0]);
});

t.test('what one thread moved, another finds', async (t) => {
  const buffer = SharedState.allocate(0x1000);
  const thread = () => {
    const state = new SharedState(buffer);
    const memory = new AddressSpace();
    const bus = new PciBus(state, new AddressSpace(), memory);
    const fn = new PciFunction(state, new FakeInterrupts(), 'test', IDENTITY);
    fn.addBar(0, { kind: 'memory', size: 0x1000, region: new Scratch() }, 0xd000_0000);
    bus.add(1, fn);
    return { bus, fn, memory };
  };
  const [one, two] = [thread(), thread()];
  one.bus.reset();
  two.bus.refresh();
  one.fn.writeConfig(command.offset, 2, IO_AND_MEMORY);
  two.bus.refresh();
  t.equal(two.memory.read(0xd000_0007, 1), 7);
  one.fn.writeConfig(base_address.offset, 4, 0xd100_0000);
  t.equal(two.memory.read(0xd000_0007, 1), 7, 'until it looks');
  two.bus.refresh();
  t.equal(two.memory.read(0xd000_0007, 1), 0xff);
  t.equal(two.memory.read(0xd100_0007, 1), 7);
});

t.test('PCI 3.0 §6.2.5.1 a 64-bit BAR of 8 GiB is sized by both halves', async (t) => {
  const GiB = 2 ** 30;
  const { bar, setBar, setCommand, read } = withBar('memory64', 8 * GiB, 64 * GiB);
  t.same([bar(0), bar(1)], [0xc, 16]);
  setBar(0xffff_ffff, 0);
  setBar(0xffff_ffff, 1);
  t.same([bar(0), bar(1)], [0xc, 0xffff_fffe]);
  setBar(0, 0);
  setBar(32, 1);
  setCommand(IO_AND_MEMORY);
  t.equal(read(128 * GiB + 7 * GiB + 5), 5);
  t.throws(() => withBar('memory', 4 * GiB, 0), { code: 'E_INTERNAL' });
});

t.test('PCI 3.0 §6.2.5.1 whether a BAR is prefetchable is its own matter', async (t) => {
  const fn = new PciFunction(
    new SharedState(SharedState.allocate(0x1000)),
    new FakeInterrupts(),
    'test',
    IDENTITY,
  );
  const region = new Scratch();
  fn.addBar(0, { kind: 'memory', size: 0x1000, prefetchable: true, region }, 0x1000);
  fn.addBar(2, { kind: 'memory64', size: 0x1000, prefetchable: false, region }, 0x2000);
  fn.reset();
  t.equal(fn.readConfig(base_address.offset, 4), 0x1008);
  t.equal(fn.readConfig(base_address.offset + 8, 4), 0x2004);
});

t.test('what follows a BAR learns where it is decoded, once for each change', async (t) => {
  const fn = new PciFunction(
    new SharedState(SharedState.allocate(0x1000)),
    new FakeInterrupts(),
    'test',
    IDENTITY,
  );
  const moves: number[] = [];
  const moved = (address: number): void => {
    moves.push(address);
  };
  fn.addBar(0, { kind: 'memory', size: 0x1000, region: new Scratch(), moved }, 0x1000);
  fn.reset();
  for (const enabled of [IO_AND_MEMORY, IO_AND_MEMORY, 0, 0, pci.PCI_COMMAND_MEMORY]) {
    fn.writeConfig(command.offset, 2, enabled);
  }
  fn.writeConfig(base_address.offset, 4, 0x5000);
  fn.reset();
  t.same(moves, [0x1000, -1, 0x1000, 0x5000, -1]);
});
