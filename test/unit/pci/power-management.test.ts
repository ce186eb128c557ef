/** The power management capability (PCI Power Management 1.2). */
import t from 'tap';
import * as pci from '../../../src/abi/pci.ts';
import { AddressSpace } from '../../../src/bus/address-space.ts';
import { PciBus } from '../../../src/pci/bus.ts';
import { PciFunction } from '../../../src/pci/function.ts';
import { addPowerManagement } from '../../../src/pci/power-management.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import { FakeInterrupts } from '../../support/fakes/interrupts.ts';

const { command, capabilities_pointer } = pci.pci_type0_header;
const BAR = 0xd000_0000;

/** A function with a BAR of memory and a doorbell in it, as two threads see it. */
function rig() {
  const buffer = SharedState.allocate(0x2000);
  const port = new FakeInterrupts();
  const thread = () => {
    const state = new SharedState(buffer);
    const memory = new AddressSpace();
    const bus = new PciBus(state, new AddressSpace(), memory);
    const fn = new PciFunction(state, port, 'test', {
      vendorId: 1,
      deviceId: 2,
      revision: 0,
      classCode: 0,
      subsystemVendorId: 0,
      subsystemId: 0,
      interruptPin: false,
    });
    const region = { read: () => 0x42, write: () => {} };
    fn.addBar(0, { kind: 'memory', size: 0x1000, region }, BAR);
    fn.bars.addDoorbell(0, 8, 77);
    addPowerManagement(fn, state);
    bus.add(1, fn);
    const read = (): number => {
      bus.refresh();
      return memory.read(BAR, 1);
    };
    return { bus, fn, read };
  };
  const first = thread();
  const second = thread();
  first.bus.reset();
  first.fn.writeConfig(command.offset, 2, pci.PCI_COMMAND_MEMORY);
  const at = first.fn.readConfig(capabilities_pointer.offset, 1);
  return {
    ...first,
    elsewhere: second.read,
    port,
    at,
    state: () => first.fn.readConfig(at + 4, 2) & 3,
    enter: (state: number) => second.fn.writeConfig(at + 4, 2, state),
  };
}

t.test('§3.2.3 it is of version 3, without D1, D2, and PME', async (t) => {
  const { fn, at } = rig();
  t.equal(fn.readConfig(at, 1), pci.PCI_CAP_ID_PM);
  t.equal(fn.readConfig(at + 2, 2), 3);
  fn.writeConfig(at + 2, 2, 0xffff);
  t.equal(fn.readConfig(at + 2, 2), 3, 'read-only');
  t.equal(fn.readConfig(at + 4, 2), 0, 'D0, without No_Soft_Reset');
});

t.test('§5.4.1 in D3hot only configuration space answers, in every thread', async (t) => {
  const r = rig();
  t.same([r.read(), r.elsewhere(), r.port.doorbells.size], [0x42, 0x42, 1]);
  r.enter(3);
  t.equal(r.state(), 3);
  t.same([r.read(), r.elsewhere(), r.port.doorbells.size], [0xff, 0xff, 0]);
  t.equal(r.fn.readConfig(0, 2), 1);
  r.enter(0);
  t.same([r.read(), r.elsewhere(), r.port.doorbells.size], [0x42, 0x42, 1], 'nothing is lost');
});

t.test('§3.2.4 states that there are not change nothing', async (t) => {
  const r = rig();
  for (const state of [1, 2]) {
    r.enter(state);
    t.equal(r.state(), 0);
    t.equal(r.read(), 0x42);
  }
  r.enter(3);
  r.enter(1);
  t.equal(r.state(), 3);
  t.equal(r.read(), 0xff);
});

t.test('a reset brings it back to D0', async (t) => {
  const r = rig();
  r.enter(3);
  r.bus.reset();
  t.equal(r.state(), 0);
  r.fn.writeConfig(command.offset, 2, pci.PCI_COMMAND_MEMORY);
  t.equal(r.read(), 0x42);
  r.enter(1);
  t.equal(r.state(), 0);
});
