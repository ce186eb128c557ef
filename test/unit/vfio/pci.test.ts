/** A passed function on the board, over a file that stands for the device's: what reaches it, and what does not. */
import { closeSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { ENOTTY } from '../../../src/abi/errno.ts';
import * as pci from '../../../src/abi/pci.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import { IntxLines } from '../../../src/pci/intx.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import { VfioPci, type VfioPciPlan, vectorsOf } from '../../../src/vfio/pci.ts';
import { FakeInterrupts } from '../../support/fakes/interrupts.ts';
import { testFolder } from '../../support/rigs/files.ts';

const header = pci.pci_type0_header;
const CONFIG_OFFSET = 0x10_0000;
const BAR_OFFSET = 0x1000;
const BAR_ADDRESS = 0xc000_0000;
const [TABLE, PENDING] = [0x2000, 0x3000];
const MSIX = 0x40;

function rig(t: Test, more: Partial<VfioPciPlan> = {}) {
  const fd = openSync(join(testFolder(t), 'device'), 'w+');
  ftruncateSync(fd, CONFIG_OFFSET + 256);
  const config = new Uint8Array(256);
  const view = new DataView(config.buffer);
  view.setUint32(0, 0x0010_1b36, true);
  view.setUint8(header.status.offset, pci.PCI_STATUS_CAP_LIST);
  view.setUint8(header.capabilities_pointer.offset, MSIX);
  view.setUint8(MSIX, pci.PCI_CAP_ID_MSIX);
  view.setUint16(MSIX + 2, 0x100, true);
  writeSync(fd, config, 0, 256, CONFIG_OFFSET);
  const eventfds = [new Eventfd(), new Eventfd()];
  t.teardown(() => {
    closeSync(fd);
    for (const eventfd of eventfds) eventfd.close();
  });
  const plan: VfioPciPlan = {
    name: 'vfio0',
    slot: 3,
    shape: {
      fd,
      configOffset: CONFIG_OFFSET,
      config,
      bars: [
        {
          index: 0,
          kind: 'memory64',
          prefetchable: false,
          size: 0x4000,
          offset: BAR_OFFSET,
          mapped: [{ offset: 0, size: 0x2000, address: 0x1000 }],
        },
      ],
      msix: {
        offset: MSIX,
        vectors: 2,
        table: TABLE,
        pending: PENDING,
        areas: [
          { bar: 0, offset: TABLE, size: 0x101 * 16 },
          { bar: 0, offset: PENDING + 0x100, size: 40 },
        ],
      },
      interrupts: [0, 0, 0x101, 1, 1],
    },
    addresses: [BAR_ADDRESS],
    vectors: eventfds.map((eventfd, index) => ({ eventfd: eventfd.fd, gsi: 24 + index })),
    memorySlot: 8,
    gone: false,
    ...more,
  };
  const port = new FakeInterrupts();
  const buffer = SharedState.allocate(0x8000);
  let changed = 0;
  const make = (): VfioPci => {
    const state = new SharedState(buffer);
    return new VfioPci(state, port, new IntxLines(state, port, 16, 4), -1, plan, () => {
      changed += 1;
    });
  };
  const device = make();
  device.reset();
  device.pciFunction.writeConfig(header.command.offset, 2, pci.PCI_COMMAND_MEMORY);
  const region = device.pciFunction.barRegion(0)?.region;
  if (region === undefined) throw new Error('no BAR');
  return {
    device,
    region,
    port,
    other: make(),
    changes: () => changed,
    file: (offset: number): number => {
      const bytes = Buffer.alloc(4);
      readSync(fd, bytes, 0, 4, offset);
      return bytes.readUInt32LE();
    },
  };
}

t.test('registers that are not mapped are read and written by way of the file', async (t) => {
  const { region, file } = rig(t);
  region.write(0x14, 4, 0x1234_5678);
  t.equal(file(BAR_OFFSET + 0x14), 0x1234_5678);
  region.write(0x16, 2, 0xabcd);
  t.equal(region.read(0x14, 4), 0xabcd_5678);
  t.same([region.read(0x14, 1), region.read(0x16, 2)], [0x78, 0xabcd]);
});

t.test('the MSI-X table and the pending bits are not those of the device', async (t) => {
  const { device, region, file, port } = rig(t);
  region.write(TABLE + 16, 4, 0xfee0_1000);
  region.write(TABLE + 24, 4, 0x42);
  region.write(TABLE + 28, 4, 0);
  t.equal(file(BAR_OFFSET + TABLE + 16), 0);
  t.equal(region.read(TABLE + 16, 4), 0xfee0_1000);
  t.equal(region.read(TABLE + 2 * 16 + 12, 4), 0, 'a vector that is not shown');
  t.equal(region.read(TABLE + 0x1000, 4), 0, 'one whose place is that of our pending bits');
  region.write(PENDING + 0x100, 4, 1);
  t.equal(file(BAR_OFFSET + PENDING + 0x100), 0);
  region.write(PENDING + 0x180, 4, 7);
  t.equal(file(BAR_OFFSET + PENDING + 0x180), 7, 'next to them');
  device.pciFunction.writeConfig(MSIX + 2, 2, 0x8000);
  t.same([...port.routes.keys()], [25]);
});

t.test('what the host refuses is reported, and its reader asked for once', async (t) => {
  const { device, other, changes } = rig(t);
  const enable = (flags: number) => device.pciFunction.writeConfig(MSIX + 2, 2, flags);
  enable(0x8000);
  enable(0);
  enable(0x8000);
  t.equal(changes(), 1);
  t.equal(other.takeProblem(), -ENOTTY, 'the file is none of VFIO');
  t.equal(other.takeProblem(), 0);
  enable(0);
  enable(0x8000);
  t.equal(changes(), 2);
});

t.test('a device that was taken away answers with ones, in each thread', async (t) => {
  const { device, other, region, file } = rig(t);
  region.write(0x20, 4, 1);
  device.remove();
  device.remove();
  t.equal(region.read(0x20, 4), 0xffff_ffff);
  t.equal(region.read(TABLE, 2), 0xffff);
  region.write(0x20, 4, 2);
  t.equal(file(BAR_OFFSET + 0x20), 1);
  t.equal(other.pciFunction.readConfig(0, 4), 0xffff_ffff);
  t.equal(other.pciFunction.bars.address(0), BAR_ADDRESS);
});

t.test('one that was gone before power-on never answers', async (t) => {
  const { region, device } = rig(t, { gone: true });
  t.equal(device.pciFunction.readConfig(0, 4), 0xffff_ffff);
  t.equal(region.read(0, 4), 0xffff_ffff);
});

t.test('what is shown of it', async (t) => {
  const { device, other } = rig(t);
  const trapped = { offset: 0, size: 0x4000, slot: null };
  const bar = { index: 0, kind: 'memory64', size: 0x4000, areas: [trapped] } as const;
  t.same(device.inspect(), {
    bars: [{ ...bar, address: '0xc0000000' }],
    interrupts: { mode: 'none', used: 0, vectors: 0 },
  });
  device.pciFunction.writeConfig(MSIX + 2, 2, 0x8000);
  t.same(other.inspect().interrupts, { mode: 'MSI-X', used: 0, vectors: 2 });
  device.remove();
  t.same(device.inspect().bars, [{ ...bar, address: null }]);
});

t.test('as many vectors as MSI or MSI-X need', async (t) => {
  const { device } = rig(t);
  const { shape } = device.plan;
  t.equal(vectorsOf(shape), 2);
  t.equal(vectorsOf({ ...shape, interrupts: [1, 8, 0] }), 8);
  t.equal(vectorsOf({ ...shape, msix: undefined, interrupts: [1, 64] }), 32);
});
