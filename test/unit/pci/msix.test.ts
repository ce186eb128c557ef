/** MSI-X (PCI 3.0 §6.8.2) with real eventfds: a masked vector's eventfd is its pending bit. */
import t from 'tap';
import * as pci from '../../../src/abi/pci.ts';
import { drainEventfd, signalEventfd } from '../../../src/host/fd.ts';
import { MSIX_VECTORS_MAX, Msix, msixInBar } from '../../../src/pci/msix.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import { FakeInterrupts } from '../../support/fakes/interrupts.ts';
import { VirtioPciRig } from '../../support/rigs/virtio-pci.ts';

const ENABLE = pci.PCI_MSIX_FLAGS_ENABLE;
const MASKALL = pci.PCI_MSIX_FLAGS_MASKALL;
const FIRST_GSI = 24;

class MsixRig extends VirtioPciRig {
  readonly table: number;
  readonly pendingBits: number;

  constructor() {
    super();
    this.enableDecoding();
    const table = this.config(this.msix() + 4, 4);
    const pending = this.config(this.msix() + 8, 4);
    this.table = this.bar(table & 7) + (table & ~7);
    this.pendingBits = this.bar(pending & 7) + (pending & ~7);
    this.port.take();
  }

  entry(vector: number, word: number): number {
    return this.readMemory(this.table + vector * 16 + word * 4, 4);
  }

  setEntry(vector: number, word: number, value: number): void {
    this.writeMemory(this.table + vector * 16 + word * 4, 4, value);
  }

  /** Writes a whole entry, masked or not, as drivers do. */
  route(vector: number, masked: boolean): void {
    this.setEntry(vector, 0, 0xfee0_1000 + vector * 0x10);
    this.setEntry(vector, 1, 0);
    this.setEntry(vector, 2, 0x40 + vector);
    this.setEntry(vector, 3, masked ? 1 : 0);
  }

  signal(vector: number): void {
    signalEventfd(this.device.plan.vectors[vector]?.eventfd ?? -1);
  }

  get pending(): number {
    return this.readMemory(this.pendingBits, 4);
  }
}

t.test('PCI 3.0 §6.8.2.3 the table size is the number of vectors less one', async (t) => {
  using rig = new MsixRig();
  t.equal(rig.config(rig.msix() + 2, 2), 3);
});

t.test('PCI 3.0 §6.8.2.3 only enable and function mask can be written', async (t) => {
  using rig = new MsixRig();
  rig.setMsixControl(0xffff);
  t.equal(rig.config(rig.msix() + 2, 2), ENABLE | MASKALL | 3);
  rig.setConfig(rig.msix() + 4, 4, 0xffff_ffff);
  rig.setConfig(rig.msix() + 8, 4, 0xffff_ffff);
  t.equal(rig.config(rig.msix() + 4, 4), 2, 'table: BAR 2 at 0');
  t.equal(rig.config(rig.msix() + 8, 4), 0x802, 'pending bits: BAR 2 at 0x800');
});

t.test('PCI 3.0 §6.8.2.9 every vector is masked at reset', async (t) => {
  using rig = new MsixRig();
  t.same(
    [0, 1, 2, 3].map((vector) => rig.entry(vector, 3)),
    [1, 1, 1, 1],
  );
  rig.setMsixControl(ENABLE);
  t.same(rig.port.take(), []);
});

t.test('PCI 3.0 §6.8.2.7 an unmasked vector of an enabled function is connected', async (t) => {
  using rig = new MsixRig();
  rig.route(1, false);
  t.same(rig.port.take(), [], 'not while MSI-X is disabled');
  rig.setMsixControl(ENABLE);
  t.same(rig.port.take(), [`connect ${FIRST_GSI + 1}`]);
  t.same(rig.port.routes.get(FIRST_GSI + 1), {
    eventfd: rig.device.plan.vectors[1]?.eventfd,
    address: 0xfee0_1010,
    data: 0x41,
  });
});

t.test('PCI 3.0 §6.8.2.8 the upper address makes a 64-bit address', async (t) => {
  using rig = new MsixRig();
  rig.route(0, true);
  rig.setEntry(0, 1, 0xffff_ffff);
  rig.setEntry(0, 0, 0xffff_fffc);
  rig.setEntry(0, 3, 0);
  rig.setMsixControl(ENABLE);
  t.equal(rig.port.routes.get(FIRST_GSI)?.address, 0xffff_ffff * 2 ** 32 + 0xffff_fffc);
});

t.test('PCI 3.0 §6.8.3.4 a masked vector keeps its pending bit until it is unmasked', async (t) => {
  using rig = new MsixRig();
  rig.setMsixControl(ENABLE);
  rig.route(0, false);
  rig.setEntry(0, 3, 1);
  t.same(rig.port.take(), [`connect ${FIRST_GSI}`, `disconnect ${FIRST_GSI}`]);
  t.equal(rig.pending, 0);
  rig.signal(0);
  t.equal(rig.pending, 1);
  t.equal(rig.pending, 1, 'reading it changes nothing');
  rig.setEntry(0, 3, 0);
  t.same(rig.port.injected, [FIRST_GSI], 'sent once');
  t.equal(rig.pending, 0);
});

t.test('PCI 3.0 §6.8.2.3 the function mask masks all vectors, whose bits stay', async (t) => {
  using rig = new MsixRig();
  rig.setMsixControl(ENABLE);
  rig.route(0, false);
  rig.route(2, false);
  rig.route(3, true);
  rig.setMsixControl(ENABLE | MASKALL);
  t.equal(rig.port.routes.size, 0);
  rig.signal(2);
  rig.signal(3);
  t.equal(rig.pending, 0b1100);
  t.same(
    [0, 1, 2, 3].map((vector) => rig.entry(vector, 3)),
    [0, 1, 0, 1],
    'the vectors keep their own mask',
  );
  rig.setMsixControl(ENABLE);
  t.same(rig.port.injected, [FIRST_GSI + 2]);
  t.equal(rig.pending, 0b1000);
});

t.test('signals from before MSI-X was enabled are stale', async (t) => {
  using rig = new MsixRig();
  rig.route(0, false);
  rig.signal(0);
  rig.setMsixControl(ENABLE | MASKALL);
  t.equal(rig.pending, 0);
  rig.setMsixControl(ENABLE);
  t.same(rig.port.injected, []);
});

t.test('PCI 3.0 §6.8.2.3 disabling disconnects every vector', async (t) => {
  using rig = new MsixRig();
  rig.setMsixControl(ENABLE);
  for (let vector = 0; vector < 4; vector++) rig.route(vector, false);
  t.equal(rig.port.routes.size, 4);
  rig.setMsixControl(0);
  t.equal(rig.port.routes.size, 0);
});

t.test('PCI 3.0 §6.8.3.5 changing an unmasked entry takes effect at once', async (t) => {
  using rig = new MsixRig();
  rig.setMsixControl(ENABLE);
  rig.route(0, false);
  rig.port.take();
  rig.setEntry(0, 2, 0x99);
  t.same(rig.port.take(), [`disconnect ${FIRST_GSI}`, `connect ${FIRST_GSI}`]);
  t.equal(rig.port.routes.get(FIRST_GSI)?.data, 0x99);
  rig.setEntry(0, 2, 0x99);
  t.same(rig.port.take(), [], 'the same again is no change');
});

t.test('PCI 3.0 §6.8.2.9 the reserved bits of Vector Control stay 0', async (t) => {
  using rig = new MsixRig();
  rig.setEntry(0, 3, 0xffff_fffe);
  t.equal(rig.entry(0, 3), 0);
  rig.setEntry(0, 3, 0xffff_ffff);
  t.equal(rig.entry(0, 3), 1);
});

t.test('PCI 3.0 §6.8.2.10 pending bits are read-only, and 0 past the last vector', async (t) => {
  using rig = new MsixRig();
  rig.writeMemory(rig.pendingBits, 4, 0xffff_ffff);
  t.equal(rig.pending, 0);
  t.equal(rig.readMemory(rig.pendingBits + 4, 4), 0);
  t.equal(rig.readMemory(rig.pendingBits + 0x7fc, 4), 0);
});

t.test('PCI 3.0 §6.8.2 accesses are aligned double words, others are none', async (t) => {
  using rig = new MsixRig();
  rig.writeMemory(rig.table, 1, 0xff);
  rig.writeMemory(rig.table + 2, 2, 0xffff);
  t.equal(rig.entry(0, 0), 0);
  rig.setEntry(0, 0, 0x1234_5678);
  t.equal(rig.readMemory(rig.table, 2), 0);
  t.equal(rig.readMemory(rig.table + 4 * 16, 4), 0, 'past the table');
  rig.writeMemory(rig.table + 4 * 16, 4, 1);
  t.equal(rig.entry(3, 3), 1);
});

t.test('PCI 3.0 §6.8.2.10 the 32nd pending bit is a number like any other', async (t) => {
  const vectors = 40;
  const port = new FakeInterrupts();
  const plan = Array.from({ length: vectors }, (_, i) => ({ eventfd: i, gsi: FIRST_GSI + i }));
  const state = new SharedState(SharedState.allocate(0x1000));
  const signalled = new Set([31, 32, 39]);
  port.isSignalled = (eventfd) => signalled.has(eventfd);
  const msix = new Msix(state, port, msixInBar(2), plan);
  msix.reset();
  t.equal(msix.read(0x800, 4), 0x8000_0000);
  t.equal(msix.read(0x804, 4), 0x81);
});

t.test('PCI 3.0 §6.8.2 a table that would run into the pending bits is refused', async (t) => {
  const vectors = Array.from({ length: MSIX_VECTORS_MAX + 1 }, () => ({ eventfd: -1, gsi: 0 }));
  const state = new SharedState(SharedState.allocate(0x4000));
  t.throws(() => new Msix(state, new FakeInterrupts(), msixInBar(2), vectors), {
    code: 'E_INTERNAL',
  });
});

t.test('a machine reset masks and disconnects', async (t) => {
  using rig = new MsixRig();
  rig.setMsixControl(ENABLE);
  rig.route(0, false);
  rig.bus.reset();
  rig.device.reset();
  t.equal(rig.port.routes.size, 0);
  rig.enableDecoding();
  t.equal(rig.entry(0, 3), 1);
  t.equal(rig.entry(0, 2), 0);
});

t.test('one thread unmasks what another masked', async (t) => {
  using rig = new MsixRig();
  // Two Msix objects over one state buffer, as in two threads.
  const buffer = SharedState.allocate(0x1000);
  const { vectors } = rig.device.plan;
  const port = new FakeInterrupts();
  const config = new DataView(new SharedArrayBuffer(256));
  const [one, two] = [0, 1].map(() => {
    const msix = new Msix(new SharedState(buffer), port, msixInBar(2), vectors);
    msix.placed(0x80, config);
    return msix;
  }) as [Msix, Msix];
  one.reset();
  config.setUint16(0x82, ENABLE, true);
  one.written();
  one.write(12, 4, 0);
  t.same(port.take(), [`connect ${FIRST_GSI}`]);
  two.write(12, 4, 1);
  t.same(port.take(), [`disconnect ${FIRST_GSI}`]);
  drainEventfd(vectors[0]?.eventfd ?? -1);
});
