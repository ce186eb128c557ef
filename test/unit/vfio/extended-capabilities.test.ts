/** Extended configuration space of a passed function: what the guest sees of it. */
import fc from 'fast-check';
import t from 'tap';
import * as pci from '../../../src/abi/pci.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import { extendedSpace } from '../../../src/vfio/extended-capabilities.ts';
import { PassedFunction } from '../../../src/vfio/passed-function.ts';
import { FakeInterrupts } from '../../support/fakes/interrupts.ts';

const [AER, SRIOV, REBAR] = [0x01, 0x10, 0x15];
const { PCI_EXT_CAP_ID_DSN: DSN, PCI_EXT_CAP_ID_VNDR: VNDR, PCI_EXT_CAP_ID_DVSEC: DVSEC } = pci;

type Capability = readonly [offset: number, id: number, second?: number];

/** A device's 4 KiB with these capabilities, all else ones. */
function device(...list: readonly Capability[]) {
  const config = new DataView(new Uint8Array(4096).fill(0xff).buffer);
  list.forEach(([offset, id, second], index) => {
    const next = list[index + 1]?.[0] ?? 0;
    config.setUint32(offset, ((next << 20) | (1 << 16) | id) >>> 0, true);
    if (second !== undefined) config.setUint32(offset + 4, second, true);
  });
  return config;
}

/** A list as guests walk it. */
function walk(read: (offset: number) => number): (readonly [offset: number, id: number])[] {
  const found: (readonly [number, number])[] = [];
  for (let at = 0x100; at >= 0x100; at = (read(at) >>> 20) & ~3) {
    if (read(at) === 0) break;
    found.push([at, read(at) & 0xffff]);
  }
  return found;
}

t.test('the list has what identifies the device, and its vendor’s', async (t) => {
  const config = device(
    [0x100, AER],
    [0x140, DSN, 0x1234_5678],
    [0x160, SRIOV],
    [0x1a0, VNDR, (0x20 << 20) | 7],
    [0x200, REBAR],
    [0x300, DVSEC, 0x18 << 20],
  );
  const { image, passed } = extendedSpace(config);
  t.same(
    walk((at) => image.getUint32(at, true)),
    [
      [0x100, 0],
      [0x140, DSN],
      [0x1a0, VNDR],
      [0x300, DVSEC],
    ],
  );
  t.same(passed, [
    { offset: 0x144, end: 0x14c },
    { offset: 0x1a4, end: 0x1c0 },
    { offset: 0x304, end: 0x318 },
  ]);
});

t.test(
  'the first place needs no filler when it is shown, and no list when nothing is',
  async (t) => {
    const first = extendedSpace(device([0x100, DSN], [0x110, AER])).image;
    t.equal(first.getUint32(0x100, true), 0x0001_0003);
    for (const config of [
      device([0x100, AER], [0x140, SRIOV]),
      new DataView(new ArrayBuffer(256)),
      new DataView(new ArrayBuffer(4096)),
      device(),
    ]) {
      const { image, passed } = extendedSpace(config);
      t.ok(new Uint8Array(image.buffer).every((byte) => byte === 0));
      t.same(passed, []);
    }
  },
);

t.test('lengths that overlap the next one, leave the space or are missing', async (t) => {
  const space = (...list: readonly Capability[]) => extendedSpace(device(...list)).passed;
  t.same(space([0x100, VNDR, 0xfff << 20], [0x120, AER]), [{ offset: 0x104, end: 0x120 }]);
  t.same(space([0x100, AER], [0xff8, DVSEC, 0xfff << 20]), [{ offset: 0xffc, end: 0x1000 }]);
  t.same(space([0x100, VNDR, 0]), [{ offset: 0x104, end: 0x100 }], 'none of it');
});

t.test('whatever a device says, there is a list that ends', async (t) => {
  await fc.assert(
    fc.property(fc.uint8Array({ minLength: 4096, maxLength: 4096 }), (bytes) => {
      const { image } = extendedSpace(new DataView(Uint8Array.from(bytes).buffer));
      return walk((at) => image.getUint32(at, true)).length <= 961;
    }),
  );
  const loop = device([0x100, DSN], [0x200, VNDR, 0x10 << 20]);
  loop.setUint32(0x200, (0x100 << 20) | (1 << 16) | VNDR, true);
  t.same(
    walk((at) => extendedSpace(loop).image.getUint32(at, true)),
    [
      [0x100, DSN],
      [0x200, VNDR],
    ],
  );
});

t.test('the guest reaches the shown ones in the device, and nothing else', async (t) => {
  const config = device([0x100, AER], [0x140, DSN], [0x1a0, VNDR, 0x20 << 20], [0x200, SRIOV]);
  const calls: string[] = [];
  const file = {
    read: (at: number, size: number) => {
      calls.push(`read ${at.toString(16)}/${size}`);
      return 0x42;
    },
    write: (at: number, size: number, value: number) => {
      calls.push(`write ${at.toString(16)}/${size}=${value.toString(16)}`);
    },
  };
  const shape = {
    config: new Uint8Array(config.buffer),
    configOffset: 0x1_0000,
    msix: undefined,
    msiVectors: 0,
    hasPin: false,
  };
  const state = new SharedState(SharedState.allocate(0x4000));
  const passed = new PassedFunction(state, new FakeInterrupts(), 'vfio0', shape, [], file);
  t.equal(passed.readExtended(0x100, 4), 0x1400_0000);
  t.equal(passed.readExtended(0x142, 2), 0x1a01);
  t.equal(passed.readExtended(0x143, 1), 0x1a);
  for (const at of [0x104, 0x14c, 0x1c0, 0x200, 0xffc]) {
    t.equal(passed.readExtended(at, 4), 0);
    passed.writeExtended(at, 4, 0xffff_ffff);
  }
  passed.writeExtended(0x1a0, 4, 0);
  t.same(calls, []);
  t.equal(passed.readExtended(0x148, 4), 0x42);
  passed.writeExtended(0x1a9, 1, 0x7f);
  t.same(calls.splice(0), ['read 10148/4', 'write 101a9/1=7f']);
  passed.markGone();
  t.equal(passed.readExtended(0x148, 2), 0xffff);
  passed.writeExtended(0x1a8, 4, 1);
  t.same(calls, []);
});
