/** Configuration space of a passed function: what is the guest's, what is the device's. */
import t from 'tap';
import * as pci from '../../../src/abi/pci.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import type { MsixVector } from '../../../src/pci/msix.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import { findCapabilities, msixPlace } from '../../../src/vfio/capabilities.ts';
import { type ConfigFile, PassedFunction } from '../../../src/vfio/passed-function.ts';
import { FakeInterrupts } from '../../support/fakes/interrupts.ts';

const header = pci.pci_type0_header;
const CONFIG_OFFSET = 0x700_0000_0000;
const [PM, MSI, VPD, EXP, MSIX, VENDOR] = [0x40, 0x50, 0x68, 0x70, 0xb0, 0xc0];
const COMMAND = header.command.offset;

/** The configuration space of a device, and the accesses to it. */
class FakeConfig implements ConfigFile {
  readonly bytes = new Uint8Array(256);
  readonly view = new DataView(this.bytes.buffer);
  readonly writes: string[] = [];

  constructor() {
    const { view } = this;
    view.setUint32(0, 0x5678_1b36, true);
    view.setUint8(header.revision_id.offset, 2);
    view.setUint32(header.revision_id.offset, 0x0108_0202, true);
    view.setUint8(header.status.offset, pci.PCI_STATUS_CAP_LIST);
    view.setUint8(header.header_type.offset, 0x80);
    view.setUint32(header.base_address.offset, 0xfebf_0004, true);
    view.setUint32(header.expansion_rom.offset, 0xfeb0_0001, true);
    view.setUint8(header.interrupt_pin.offset, 2);
    this.list([PM, 1], [MSI, 5], [VPD, 3], [EXP, 0x10], [MSIX, 0x11], [VENDOR, 9]);
    view.setUint16(PM + 2, 0xc803, true);
    view.setUint16(PM + 4, 0x8003, true);
    // 64-bit addresses, masks, up to 4 vectors.
    view.setUint16(MSI + 2, 0x184, true);
    view.setUint16(VPD + 2, 0x8000, true);
    view.setUint16(EXP + 2, 0x0002, true);
    view.setUint32(EXP + 4, 0x1000_8fc0, true);
    view.setUint32(EXP + 0xc, 0x0007_1c11, true);
    view.setUint16(MSIX + 2, 0x40, true);
    view.setUint32(MSIX + 4, 0x2000, true);
    view.setUint32(MSIX + 8, 0x3000, true);
    view.setUint32(VENDOR + 4, 0xcafe_f00d, true);
    view.setUint32(0xf0, 0x1234_5678, true);
  }

  list(...capabilities: readonly (readonly [number, number])[]): void {
    capabilities.forEach(([offset, id], index) => {
      if (index === 0) this.view.setUint8(header.capabilities_pointer.offset, offset);
      this.view.setUint8(offset, id);
      this.view.setUint8(offset + 1, capabilities[index + 1]?.[0] ?? 0);
    });
  }

  read(position: number, size: number): number {
    const at = position - CONFIG_OFFSET;
    if (size === 1) return this.view.getUint8(at);
    return size === 2 ? this.view.getUint16(at, true) : this.view.getUint32(at, true);
  }

  write(position: number, size: number, value: number): void {
    const at = position - CONFIG_OFFSET;
    this.writes.push(`${at.toString(16)}/${size}=${value.toString(16)}`);
    for (let i = 0; i < size; i++) this.view.setUint8(at + i, (value >>> (8 * i)) & 0xff);
  }
}

class Rig implements Disposable {
  readonly device = new FakeConfig();
  readonly port = new FakeInterrupts();
  readonly moves: number[] = [];
  readonly eventfds = Array.from({ length: 8 }, () => new Eventfd());
  readonly vectors: MsixVector[] = this.eventfds.map(({ fd }, index) => ({
    eventfd: fd,
    gsi: 24 + index,
  }));
  readonly function: PassedFunction;

  constructor(msiVectors = 4) {
    const { device } = this;
    const found = msixPlace(device.view);
    this.function = new PassedFunction(
      new SharedState(SharedState.allocate(0x4000)),
      this.port,
      'vfio0',
      {
        config: Uint8Array.from(device.bytes),
        configOffset: CONFIG_OFFSET,
        msix: found && { ...found, vectors: 8 },
        msiVectors,
        hasPin: true,
      },
      this.vectors,
      device,
    );
    const region = { read: () => 0, write: () => {} };
    this.function.addBar(
      0,
      {
        kind: 'memory64',
        size: 0x4000,
        prefetchable: false,
        region,
        moved: (address) => this.moves.push(address),
      },
      0xc000_4000,
    );
    this.function.reset();
    device.writes.splice(0);
  }

  read(offset: number, size = 4): number {
    return this.function.readConfig(offset, size);
  }

  write(offset: number, size: number, value: number): string[] {
    this.function.writeConfig(offset, size, value);
    return this.device.writes.splice(0);
  }

  [Symbol.dispose](): void {
    for (const eventfd of this.eventfds) eventfd.close();
  }
}

t.test('the guest sees what the device is, as a single function without a ROM', async (t) => {
  using rig = new Rig();
  t.equal(rig.read(0), 0x5678_1b36);
  t.equal(rig.read(header.revision_id.offset), 0x0108_0202);
  t.equal(rig.read(header.header_type.offset, 1), 0);
  t.equal(rig.read(header.expansion_rom.offset), 0);
  t.same(rig.write(header.expansion_rom.offset, 4, 0xffff_ffff), []);
  t.equal(rig.read(header.expansion_rom.offset), 0);
  t.equal(rig.read(header.interrupt_pin.offset, 1), 1, 'INTA#, on its own line');
});

t.test('BARs are where the machine puts them, and sized without the device', async (t) => {
  using rig = new Rig();
  const bar = header.base_address.offset;
  t.equal(rig.read(bar), 0xc000_4004, '64 bits, not prefetchable, as the device has it');
  t.same(rig.write(bar, 4, 0xffff_ffff), []);
  t.equal(rig.read(bar), 0xffff_c004);
  t.same(rig.write(bar, 4, 0xd000_0000), []);
  t.same(rig.moves, [], 'nothing is decoded yet');
  rig.write(COMMAND, 2, pci.PCI_COMMAND_MEMORY);
  rig.write(bar + 4, 4, 1);
  rig.write(COMMAND, 2, 0);
  t.same(rig.moves, [0xd000_0000, 0x1_d000_0000, -1]);
});

t.test('the device decodes always, and masters the bus as the guest says', async (t) => {
  using rig = new Rig();
  rig.function.reset();
  t.same(rig.device.writes.splice(0), ['4/2=3']);
  t.equal(rig.read(COMMAND, 2), 0);
  t.same(rig.write(COMMAND, 2, 0x406), ['4/1=7', '5/1=4']);
  t.equal(rig.read(COMMAND, 2), 0x406);
  t.same(rig.write(COMMAND, 2, 0), ['4/1=3', '5/1=0']);
  t.equal(rig.read(COMMAND, 2), 0);
});

t.test('bits of the status register are cleared in the device by writing 1', async (t) => {
  using rig = new Rig();
  rig.device.view.setUint16(header.status.offset, 0x2018, true);
  t.equal(rig.read(header.status.offset, 2), 0x2018);
  t.same(rig.write(header.status.offset, 2, 0x2000), ['6/1=10', '7/1=20']);
});

t.test('the list has those capabilities that a guest can use', async (t) => {
  using rig = new Rig();
  const seen = new DataView(new ArrayBuffer(256));
  for (let at = 0; at < 256; at++) seen.setUint8(at, rig.read(at, 1));
  t.same(
    findCapabilities(seen).map(({ id, offset }) => [id, offset]),
    [
      [1, PM],
      [5, MSI],
      [0x10, EXP],
      [0x11, MSIX],
      [9, VENDOR],
    ],
  );
  t.equal(rig.read(VPD), 0);
  t.same(rig.write(VPD, 4, 0x1234), [], 'not even written');
  t.equal(rig.read(VENDOR + 4), 0xcafe_f00d);
  t.same(rig.write(VENDOR + 4, 4, 0x55), [`${(VENDOR + 4).toString(16)}/4=55`]);
  t.equal(rig.read(0xf0), 0x1234_5678, "what is the device's own");
});

t.test('without MSI of the host, the guest has none', async (t) => {
  using rig = new Rig(0);
  t.equal(rig.function.msi, undefined);
  t.equal(rig.read(PM + 1, 1), EXP);
  t.equal(rig.read(MSI + 2, 2), 0);
});

t.test('a power state is remembered, and the device stays in D0', async (t) => {
  using rig = new Rig();
  t.equal(rig.read(PM + 2, 2), 0xc803);
  t.equal(rig.read(PM + 4, 2), 0x0008, 'D0, no soft reset, no event');
  t.same(rig.write(PM + 4, 2, 0x8003), []);
  t.equal(rig.read(PM + 4, 2), 0x000b);
});

t.test('an endpoint is part of the root complex, and has no link', async (t) => {
  using rig = new Rig();
  t.equal(rig.read(EXP + 2, 2), 0x0092);
  t.equal(rig.read(EXP + 0xc), 0);
  t.equal(rig.read(EXP + 4), 0x1000_8fc0);
  t.same(rig.write(EXP + 8, 2, 0x8000), ['78/2=8000'], 'VFIO makes a reset of it');
});

t.test('MSI-X is masked, routed and enabled in the guest only', async (t) => {
  using rig = new Rig();
  const { msix } = rig.function;
  t.equal(rig.read(MSIX + 2, 2), 7);
  t.equal(rig.read(MSIX + 4), 0x2000);
  t.equal(rig.read(MSIX + 8), 0x3000);
  const seen: unknown[] = [];
  if (msix !== undefined) {
    msix.connecting = (vector) => seen.push(vector);
    msix.enabledChanged = () => seen.push(msix.enabled);
    msix.write(16 * 3, 4, 0xfee0_1000);
    msix.write(16 * 3 + 8, 4, 0x41);
    msix.write(16 * 3 + 12, 4, 0);
  }
  t.same(rig.write(MSIX + 2, 2, 0x8000), []);
  t.same(seen, [3, true]);
  t.same(
    [...rig.port.routes.values()],
    [{ eventfd: rig.vectors[3]?.eventfd, address: 0xfee0_1000, data: 0x41 }],
  );
});

t.test('PCI 3.0 §6.8.1 MSI: four vectors by one message, each with its mask', async (t) => {
  using rig = new Rig();
  const { msi } = rig.function;
  t.equal(rig.read(MSI + 2, 2), 0x184);
  const seen: unknown[] = [];
  if (msi !== undefined) msi.enabledChanged = () => seen.push(msi.enabled);
  rig.write(MSI + 4, 4, 0xfee0_1003);
  rig.write(MSI + 8, 4, 1);
  rig.write(MSI + 0xc, 2, 0x47);
  rig.write(MSI + 0x10, 4, 0xffff_fffd);
  t.equal(rig.read(MSI + 0x10), 0xd, 'as many masks as vectors');
  t.same(rig.write(MSI + 2, 2, 0xffff), []);
  t.equal(rig.read(MSI + 2, 2), 0x1f5, 'enable and count can be written, no more');
  t.same(seen, [4]);
  const route = (index: number, address: number) => ({
    eventfd: rig.vectors[index]?.eventfd,
    address,
    data: 0x44 + index,
  });
  t.same([...rig.port.routes.values()], [route(1, 0x1_fee0_1000)]);
  rig.eventfds[2]?.signal();
  t.equal(rig.read(MSI + 0x14), 4, 'pending while masked');
  rig.write(MSI + 0x10, 4, 8);
  t.same([...rig.port.routes.keys()].sort(), [24, 25, 26], 'unmasked');
  t.same(rig.port.injected, [26]);
  rig.write(MSI + 4, 4, 0xfee0_2000);
  t.same(rig.port.routes.get(26), route(2, 0x1_fee0_2000), 'moved while enabled');
  rig.write(MSI + 2, 2, 0);
  t.equal(rig.port.routes.size, 0);
  t.same(seen, [4, 0]);
});

t.test('more vectors enabled than there are: no more than there are', async (t) => {
  using rig = new Rig(1);
  t.equal(rig.read(MSI + 2, 2), 0x180, 'one is offered');
  rig.write(MSI + 2, 2, 0x71);
  t.equal(rig.function.msi?.enabled, 1);
  t.equal(rig.port.routes.size, 1);
});

t.test('a device that is gone answers with ones, and takes nothing', async (t) => {
  using rig = new Rig();
  rig.function.markGone();
  t.equal(rig.read(0), 0xffff_ffff);
  t.equal(rig.read(COMMAND, 2), 0xffff);
  t.same(rig.write(COMMAND, 2, 7), []);
  rig.function.reset();
  t.same(rig.device.writes, []);
});

t.test('a list of capabilities that loops or points into the header ends', async (t) => {
  const device = new FakeConfig();
  device.view.setUint8(VENDOR + 1, PM);
  t.equal(findCapabilities(device.view).length, 6);
  device.view.setUint8(MSI + 1, 0x10);
  t.equal(findCapabilities(device.view).length, 2);
  device.view.setUint8(header.status.offset, 0);
  t.same(findCapabilities(device.view), []);
  t.equal(msixPlace(device.view), undefined);
});

t.test('where table and pending bits are', async (t) => {
  t.match(msixPlace(new FakeConfig().view), {
    offset: MSIX,
    vectors: 65,
    areas: [
      { bar: 0, offset: 0x2000, size: 65 * 16 },
      { bar: 0, offset: 0x3000, size: 16 },
    ],
  });
});
