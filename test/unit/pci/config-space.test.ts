/** How a guest reaches configuration space, and what it finds there (PCI 3.0 §3.2.2.3.2, §6). */
import t from 'tap';
import * as pci from '../../../src/abi/pci.ts';
import { VirtioPciRig } from '../../support/rigs/virtio-pci.ts';

const header = pci.pci_type0_header;
const ADDRESS = 0xcf8;
const DATA = 0xcfc;
const select = (slot: number, fn = 0, register = 0, bus = 0): number =>
  (0x8000_0000 | (bus << 16) | (slot << 11) | (fn << 8) | register) >>> 0;

t.test('PCI 3.0 §3.2.2.3.2 CONFIG_ADDRESS reads back without its reserved bits', async (t) => {
  using rig = new VirtioPciRig();
  t.equal(rig.readPort(ADDRESS, 4), 0, 'zero at reset');
  rig.writePort(ADDRESS, 4, 0xffff_ffff);
  t.equal(rig.readPort(ADDRESS, 4), 0x80ff_fffc);
});

t.test('PCI 3.0 §3.2.2.3.2 CONFIG_ADDRESS is only accessed as a double word', async (t) => {
  using rig = new VirtioPciRig();
  rig.writePort(ADDRESS, 4, select(1));
  rig.writePort(ADDRESS, 1, 0xff);
  rig.writePort(ADDRESS + 2, 2, 0xffff);
  t.equal(rig.readPort(ADDRESS, 4), select(1));
  t.equal(rig.readPort(ADDRESS, 1), 0xff);
  t.equal(rig.readPort(ADDRESS + 2, 2), 0xffff);
});

t.test('PCI 3.0 §3.2.2.3.2 CONFIG_DATA reads bytes, words and double words', async (t) => {
  using rig = new VirtioPciRig();
  rig.writePort(ADDRESS, 4, select(1));
  t.equal(rig.readPort(DATA, 4), 0x106a_1af4);
  t.equal(rig.readPort(DATA, 2), 0x1af4);
  t.equal(rig.readPort(DATA + 2, 2), 0x106a);
  t.same(
    [0, 1, 2, 3].map((at) => rig.readPort(DATA + at, 1)),
    [0xf4, 0x1a, 0x6a, 0x10],
  );
});

t.test('PCI 3.0 §3.2.2.3.2 without the enable bit CONFIG_DATA is not configuration', async (t) => {
  using rig = new VirtioPciRig();
  rig.writePort(ADDRESS, 4, select(1) - 0x8000_0000);
  t.equal(rig.readPort(DATA, 4), 0xffff_ffff);
  rig.writePort(DATA + 0, 4, 0);
  t.equal(rig.config(0, 2), 0x1af4);
});

for (const [name, slot, fn, bus] of [
  ['an absent slot', 2, 0, 0],
  ['a function that is not 0', 1, 1, 0],
  ['another bus', 1, 0, 1],
] as const) {
  t.test(`PCI 3.0 §6.1 ${name} reads as all ones, by mechanism 1 of any width`, async (t) => {
    using rig = new VirtioPciRig();
    rig.writePort(ADDRESS, 4, select(slot, fn, 0, bus));
    t.same(
      [1, 2, 4].map((size) => rig.readPort(DATA, size)),
      [0xff, 0xffff, 0xffff_ffff],
    );
    rig.writePort(DATA, 4, 0);
  });
}

t.test('PCIe 5.0 §7.2.2 ECAM shows the same registers', async (t) => {
  using rig = new VirtioPciRig({ slots: [31] });
  t.equal(rig.config(0, 4, 31), 0x106a_1af4);
  t.equal(rig.config(header.class_code.offset, 1, 31), 0);
  t.equal(rig.config(header.class_code.offset + 1, 2, 31), 0x0100);
  rig.writePort(ADDRESS, 4, select(31, 0, header.cache_line_size.offset));
  rig.writePort(DATA, 1, 0x40);
  t.equal(rig.config(header.cache_line_size.offset, 1, 31), 0x40);
});

t.test('PCIe 5.0 §7.2.2 ECAM of absent slots and functions reads as all ones', async (t) => {
  using rig = new VirtioPciRig();
  for (const [slot, offset] of [
    [2, 0],
    [31, 0xffc],
    [1, 0x1000],
    [1, 0x7000],
  ] as const) {
    t.equal(rig.config(offset, 4, slot), 0xffff_ffff);
    rig.setConfig(offset, 4, 0x1234, slot);
  }
});

t.test('PCIe 5.0 §7.2.2.2 extended configuration space is empty, not an alias', async (t) => {
  using rig = new VirtioPciRig();
  t.equal(rig.config(0x100, 4), 0);
  rig.setConfig(0x100 + header.command.offset, 2, 7);
  t.equal(rig.config(header.command.offset, 2), 0);
});

t.test('PCI 3.0 §6.1 an access that crosses a double word is none', async (t) => {
  using rig = new VirtioPciRig();
  t.equal(rig.config(2, 4), 0xffff_ffff);
  t.equal(rig.config(3, 2), 0xffff);
  rig.setConfig(header.command.offset - 2, 4, 0xffff_ffff);
  t.equal(rig.config(header.command.offset, 2), 0);
});

t.test('PCI 3.0 §6.1 read-only registers keep their value', async (t) => {
  using rig = new VirtioPciRig();
  const before = Array.from({ length: 4 }, (_, i) => rig.config(i * 4, 4));
  for (let at = 0; at < 16; at += 4) rig.setConfig(at, 4, 0xffff_ffff);
  t.equal(rig.config(0, 4), before[0], 'identity');
  t.equal(rig.config(8, 4), before[2], 'class');
  t.equal(rig.config(4, 2), 0x407, 'command: I/O, memory, master, INTx disable');
  t.equal(rig.config(6, 2), pci.PCI_STATUS_CAP_LIST);
});

t.test('PCI 3.0 §6.2.4 the interrupt pin is INTA#, the line holds what was written', async (t) => {
  using rig = new VirtioPciRig();
  t.equal(rig.config(header.interrupt_pin.offset, 1), 1);
  t.equal(rig.config(header.interrupt_line.offset, 1), 17);
  rig.setConfig(header.interrupt_line.offset, 1, 0x5a);
  t.equal(rig.config(header.interrupt_line.offset, 1), 0x5a);
});

t.test('PCI 3.0 §6.7 the capabilities list is aligned, ends, and does not overlap', async (t) => {
  using rig = new VirtioPciRig();
  t.equal(rig.config(header.status.offset, 2) & pci.PCI_STATUS_CAP_LIST, pci.PCI_STATUS_CAP_LIST);
  const found = rig.capabilities();
  t.same(
    found.map(({ id }) => id),
    [9, 9, 9, 9, 9, pci.PCI_CAP_ID_MSIX, pci.PCI_CAP_ID_PM],
  );
  let end = pci.PCI_STD_HEADER_SIZEOF;
  for (const { id, offset } of found) {
    t.equal(offset % 4, 0);
    t.ok(offset >= end);
    const length = { [pci.PCI_CAP_ID_MSIX]: 12, [pci.PCI_CAP_ID_PM]: 8 }[id];
    end = offset + (length ?? rig.config(offset + 2, 1));
  }
  t.ok(end <= pci.PCI_CFG_SPACE_SIZE);
});

t.test('PCI 3.0 §4.3.3 a reset takes every register back', async (t) => {
  using rig = new VirtioPciRig();
  const before = Array.from({ length: 64 }, (_, i) => rig.config(i * 4, 4));
  for (let at = 0; at < 256; at += 4) rig.setConfig(at, 4, 0xffff_ffff);
  rig.bus.reset();
  t.same(
    Array.from({ length: 64 }, (_, i) => rig.config(i * 4, 4)),
    before,
  );
  t.equal(rig.port.doorbells.size, 0);
});
