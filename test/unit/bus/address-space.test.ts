import fc from 'fast-check';
import t from 'tap';
import { AddressSpace, type RegisterRegion } from '../../../src/bus/address-space.ts';

/** A region that reads as its own number, and records where it was written. */
function region(id: number, writes: string[] = []): RegisterRegion {
  return {
    read: () => id,
    write: (offset, size, value) => writes.push(`${id}: ${offset}+${size}=${value}`),
  };
}

t.test('an address finds its region, first and last byte included', async (t) => {
  const space = new AddressSpace();
  space.add(0x100, 0x10, region(1));
  space.add(0x110, 0x10, region(2));
  t.same(
    [0xff, 0x100, 0x10f, 0x110, 0x11f, 0x120].map((address) => space.read(address, 1)),
    [0xff, 1, 1, 2, 2, 0xff],
  );
});

t.test('offset, size and value reach the region', async (t) => {
  const writes: string[] = [];
  const space = new AddressSpace();
  space.add(0xc000_0000, 0x1000, region(3, writes));
  space.write(0xc000_0123, 2, 0xbeef);
  t.same(writes, ['3: 291+2=48879']);
});

t.test('where nothing is, all bits are ones and writes are lost', async (t) => {
  const space = new AddressSpace();
  t.same(
    [1, 2, 4].map((size) => space.read(0x1234, size)),
    [0xff, 0xffff, 0xffff_ffff],
  );
  space.write(0x1234, 4, 1);
});

t.test('an access that leaves its region is none', async (t) => {
  const writes: string[] = [];
  const space = new AddressSpace();
  space.add(0x100, 6, region(1, writes));
  space.add(0x106, 6, region(2, writes));
  t.equal(space.read(0x104, 4), 0xffff_ffff);
  space.write(0x105, 2, 0);
  t.same(writes, []);
});

t.test('fixed regions do not overlap', async (t) => {
  const space = new AddressSpace();
  space.add(0x100, 0x10, region(1));
  t.throws(() => space.add(0x10f, 1, region(2)), { code: 'E_INTERNAL' });
  t.throws(() => space.add(0xf8, 0x10, region(2)), { code: 'E_INTERNAL' });
});

t.test(
  'moved regions replace the ones before, and give way to fixed and earlier ones',
  async (t) => {
    const space = new AddressSpace();
    space.add(0x100, 0x10, region(1));
    space.setMovable([
      { base: 0x200, size: 0x10, region: region(2) },
      { base: 0x108, size: 0x10, region: region(3) },
      { base: 0x20f, size: 0x10, region: region(4) },
    ]);
    t.same(
      [0x108, 0x112, 0x20f, 0x210].map((address) => space.read(address, 1)),
      [1, 0xff, 2, 0xff],
    );
    space.setMovable([{ base: 0x20f, size: 0x10, region: region(4) }]);
    t.same(
      [0x108, 0x200, 0x20f, 0x210].map((address) => space.read(address, 1)),
      [1, 0xff, 4, 4],
    );
  },
);

t.test('addresses up to 2^64 are fine', async (t) => {
  const space = new AddressSpace();
  space.add(0xe000_0000, 0x10_0000, region(1));
  t.equal(space.read(2 ** 64, 1), 0xff);
  t.equal(space.read(2 ** 32 + 0xe000_0000, 1), 0xff, 'no wrap at 32 bits');
});

t.test('the search finds what a scan finds', async (t) => {
  const range = fc.record({ base: fc.nat(500), size: fc.integer({ min: 1, max: 40 }) });
  fc.assert(
    fc.property(fc.array(range, { maxLength: 30 }), fc.nat(560), (ranges, address) => {
      const space = new AddressSpace();
      const kept: { base: number; size: number; id: number }[] = [];
      ranges.forEach(({ base, size }, id) => {
        const free = kept.every((k) => base >= k.base + k.size || k.base >= base + size);
        if (free) kept.push({ base, size, id });
      });
      space.setMovable(ranges.map((r, id) => ({ ...r, region: region(id) })));
      const found = kept.find((k) => address >= k.base && address < k.base + k.size);
      return space.read(address, 1) === (found?.id ?? 0xff);
    }),
    { seed: 20261121, numRuns: 2000 },
  );
  t.pass('held');
});
