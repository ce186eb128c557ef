/** INTx: shared lines (PCI 3.0 §2.2.6), and when a function may drive its pin (§6.2.2, §6.2.3). */
import t from 'tap';
import * as pci from '../../../src/abi/pci.ts';
import { VirtioPciRig } from '../../support/rigs/virtio-pci.ts';

const { command, status } = pci.pci_type0_header;
const DECODE = pci.PCI_COMMAND_IO | pci.PCI_COMMAND_MEMORY | pci.PCI_COMMAND_MASTER;

function interruptStatus(rig: VirtioPciRig, slot = 1): boolean {
  return (rig.config(status.offset, 2, slot) & pci.PCI_STATUS_INTERRUPT) !== 0;
}

function setIntxDisable(rig: VirtioPciRig, disable: boolean, slot = 1): void {
  rig.setConfig(command.offset, 2, DECODE | (disable ? pci.PCI_COMMAND_INTX_DISABLE : 0), slot);
}

/** A rig with the first device set up, without MSI-X. */
function running(slots: readonly number[] = [1]): VirtioPciRig {
  const rig = new VirtioPciRig({ slots });
  rig.initialize();
  rig.port.take();
  return rig;
}

t.test('PCI 3.0 §2.2.6 pins of the slots take turns on the lines', async (t) => {
  using rig = new VirtioPciRig();
  t.same(
    [0, 1, 2, 3, 4, 31].map((slot) => rig.lines.gsi(slot)),
    [16, 17, 18, 19, 16, 19],
  );
});

t.test('PCI 3.0 §2.2.6 a line stays up until every slot on it has released it', async (t) => {
  using rig = running([1, 5, 2]);
  const [one, five, two] = rig.devices.map(({ pciFunction }) => pciFunction);
  if (one === undefined || five === undefined || two === undefined) return;
  rig.lines.pin(1, one).set(true);
  rig.lines.pin(5, five).set(true);
  rig.lines.pin(2, two).set(true);
  t.same(rig.port.take(), ['line 17 up', 'line 18 up']);
  rig.lines.pin(1, one).set(true);
  rig.lines.pin(1, one).set(false);
  t.same(rig.port.take(), []);
  rig.lines.pin(5, five).set(false);
  t.same(rig.port.take(), ['line 17 down']);
});

t.test('PCI 3.0 §2.2.6 slot 31 is a slot like any other', async (t) => {
  using rig = new VirtioPciRig({ slots: [31] });
  rig.lines.pin(31, rig.device.pciFunction).set(true);
  rig.lines.pin(31, rig.device.pciFunction).set(false);
  t.same(rig.port.take(), ['line 19 up', 'line 19 down']);
});

t.test('PCI 3.0 §6.2.2 interrupt disable deasserts a pin', async (t) => {
  using rig = running();
  rig.device.assertQueueInterrupt();
  t.same(rig.port.take(), ['line 17 up']);
  setIntxDisable(rig, true);
  t.same(rig.port.take(), ['line 17 down']);
});

t.test('PCI 3.0 §6.2.2 the pin is asserted again when interrupt disable is cleared', async (t) => {
  using rig = running();
  setIntxDisable(rig, true);
  rig.device.assertQueueInterrupt();
  t.same(rig.port.take(), []);
  setIntxDisable(rig, false);
  t.same(rig.port.take(), ['line 17 up']);
});

t.test(
  'PCI 3.0 §6.2.3 interrupt status shows the interrupt regardless of interrupt disable',
  async (t) => {
    using rig = running();
    rig.device.assertQueueInterrupt();
    t.equal(interruptStatus(rig), true);
    setIntxDisable(rig, true);
    t.equal(interruptStatus(rig), true);
    rig.readMemory(rig.isrAddress, 1);
    t.equal(interruptStatus(rig), false);
    setIntxDisable(rig, false);
    t.same(rig.port.take(), ['line 17 up', 'line 17 down']);
  },
);

t.test(
  'PCI 3.0 §6.2.2 a byte write to the upper half of the command register counts',
  async (t) => {
    using rig = running();
    rig.device.assertQueueInterrupt();
    rig.setConfig(command.offset + 1, 1, pci.PCI_COMMAND_INTX_DISABLE >> 8);
    t.same(rig.port.take(), ['line 17 up', 'line 17 down']);
  },
);

t.test('PCI 3.0 §6.8.2.3 with MSI-X enabled a function does not use its pin', async (t) => {
  using rig = running();
  rig.device.assertQueueInterrupt();
  rig.setMsixControl(pci.PCI_MSIX_FLAGS_ENABLE);
  t.same(rig.port.take(), ['line 17 up', 'line 17 down']);
  rig.device.assertQueueInterrupt();
  t.same(rig.port.take(), []);
});

t.test('PCI 3.0 §4.3.3 a reset of the machine releases the line', async (t) => {
  using rig = running();
  rig.device.assertQueueInterrupt();
  rig.bus.reset();
  rig.device.reset();
  t.same(rig.port.lines.get(17), false);
});
