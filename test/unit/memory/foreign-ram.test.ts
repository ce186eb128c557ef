/** RAM of another program's guest: where its regions land, and tables that cannot be. */
import { ftruncateSync } from 'node:fs';
import fc from 'fast-check';
import t from 'tap';
import { Fd } from '../../../src/host/fd.ts';
import * as sys from '../../../src/host/syscall.ts';
import { ForeignRam, type ForeignRegion } from '../../../src/memory/foreign-ram.ts';
import { CHUNK, GuestMemory } from '../../../src/memory/guest-memory.ts';
import { GiB, MiB } from '../../../src/memory/ram-layout.ts';

function memfd(size: number): Fd {
  const fd = new Fd(sys.check(sys.memfdCreate('guest', 1), 'memfd_create', 'a test'));
  sys.check(sys.ftruncate(fd.fd, size), 'ftruncate', 'a test');
  return fd;
}

/** Two pieces below 1 MiB, as a PC has them, one that ends in the next GiB, and one far above. */
const FAR = 0x7f12_3456_7000;
const layout = (fd: number): ForeignRegion[] => [
  { gpa: FAR, size: 2 * GiB, fd, fileOffset: 4 * MiB },
  { gpa: 0, size: 0xa0000, fd, fileOffset: 0 },
  { gpa: MiB, size: GiB, fd, fileOffset: MiB },
  { gpa: MiB + GiB, size: MiB, fd, fileOffset: 0 },
];

t.test('locate finds what offset finds, wherever the regions are', async (t) => {
  using file = memfd(3 * GiB);
  using ram = new ForeignRam(layout(file.fd));
  const memory = new GuestMemory(ram.share);
  const near = (base: number) =>
    fc.integer({ min: -20, max: 20 }).map((d) => Math.max(0, base + d));
  const edges = [0, 0xa0000, MiB, GiB, GiB + MiB, GiB + 2 * MiB, FAR, FAR + GiB, FAR + 2 * GiB];
  const gpa = fc.oneof(fc.nat(2 * GiB), ...[...edges, 2 ** 32, 2 ** 46, 2 ** 52].map(near));
  const length = fc.oneof(fc.nat(40), fc.nat(2 ** 32 - 1));
  fc.assert(
    fc.property(gpa, length, (address, bytes) => {
      const low = (address % 2 ** 32) | 0;
      const high = Math.floor(address / 2 ** 32) | 0;
      const chunk = memory.locate(low, high, bytes | 0, false);
      const found = chunk < 0 ? -1 : chunk * CHUNK + memory.position;
      const inside = layout(0)
        .concat({ gpa: MiB, size: GiB + MiB, fd: 0, fileOffset: 0 })
        .some((region) => address >= region.gpa && address + bytes <= region.gpa + region.size);
      return found === memory.offset(address, bytes) && inside === found >= 0;
    }),
    { numRuns: 5000, seed: 20261121 },
  );
  t.equal(memory.locate(-1, -1, 1, false), -1, 'the last byte of the address space');
});

t.test("a guest physical address is a byte of its region's file", async (t) => {
  using file = memfd(3 * GiB);
  using ram = new ForeignRam(layout(file.fd));
  const memory = new GuestMemory(ram.share);
  const at = (gpa: number): number => memory.offset(gpa, 4);
  memory.writeU32(at(FAR), 0x1234);
  t.equal(memory.readU32(at(4 * MiB)), 0x1234, 'byte 4 MiB of the file, in another region');
  memory.writeU32(at(FAR + GiB + 64), 0x5678);
  t.equal(memory.readU32(at(FAR + GiB + 64)), 0x5678);
  const across = memory.offset(MiB + GiB - 2, 4);
  memory.writeU32(across, 0xaabbccdd);
  t.same([...memory.bytes(across, 4)], [0xdd, 0xcc, 0xbb, 0xaa], 'a range over two regions');
  t.equal(memory.readU16(at(MiB + GiB)), 0xaabb);
  t.equal(memory.offset(0xa0000 - 2, 4), -1, 'a range that ends in a hole');
});

t.test('tables that cannot be are refused in one line', async (t) => {
  using file = memfd(4 * MiB);
  using pipe = new Fd(sys.check(sys.eventfd(0, 0), 'eventfd', 'a test'));
  const one = { gpa: 0, size: MiB, fd: file.fd, fileOffset: 0 };
  const cases: [ForeignRegion[], RegExp][] = [
    [[{ ...one, fileOffset: 3 * MiB, size: 2 * MiB }], /0x0 ends at 5242880 in a file of 4194304/],
    [[one, { ...one, gpa: MiB - 4096 }], /regions overlap at 0xff000$/],
    [[{ ...one, size: 0 }], /the region at 0x0 is empty$/],
    [[{ ...one, fd: pipe.fd }], /the region at 0x0 has no file$/],
    [[{ ...one, gpa: 8, fileOffset: 0 }], /0x8 and its file offset differ within a page$/],
  ];
  for (const [regions, expected] of cases) t.throws(() => new ForeignRam(regions), expected);
  using huge = memfd(2 ** 43);
  const far = { ...one, fd: huge.fd, size: 2 ** 41 };
  t.throws(() => new ForeignRam([far]), /it describes more than 1024 GiB$/);
});

t.test('memory that was taken away reads as zeroes, and is reported', async (t) => {
  using file = memfd(4 * MiB);
  using ram = new ForeignRam([{ gpa: 0, size: 4 * MiB, fd: file.fd, fileOffset: 0 }]);
  const memory = new GuestMemory(ram.share);
  memory.writeU32(2 * MiB, 7);
  t.equal(ram.truncated, false);
  ftruncateSync(file.fd, MiB);
  t.equal(memory.readU32(2 * MiB), 0);
  t.equal(ram.truncated, true);
});
