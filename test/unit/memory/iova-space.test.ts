/** Addresses behind an IOMMU: what a device sees, and what it does not. */
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import t from 'tap';
import * as sys from '../../../src/host/syscall.ts';
import { ACCESS_READ, ACCESS_WRITE, CHUNK, GuestMemory } from '../../../src/memory/guest-memory.ts';
import { IovaSpace, iovaSize } from '../../../src/memory/iova-space.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { GiB, MiB } from '../../../src/memory/ram-layout.ts';

const PAGE = 4096;
const RW = ACCESS_READ | ACCESS_WRITE;

function setUp(size = 4 * MiB) {
  const ram = new Ram(size, 'memfd');
  const space = new IovaSpace(ram.memory);
  const memory = new GuestMemory(space.share);
  const close = (): void => {
    memory.detach();
    space.close();
    ram.close();
  };
  return { ram: ram.memory, space, memory, close };
}

t.test('a page is seen where it is mapped, and nowhere else', async (t) => {
  const { ram, space, memory, close } = setUp();
  ram.writeU32(5 * PAGE, 0x1234);
  const address = 3 * GiB + 7 * PAGE;
  t.equal(memory.offset(address, 4), -1);
  t.same(memory.denied, { address, write: false });
  t.ok(space.map(address, 5 * PAGE, PAGE, RW));
  t.equal(memory.readU32(memory.offset(address, 4)), 0x1234);
  memory.writeU32(memory.offset(address + 8, 4, true), 0x5678);
  t.equal(ram.readU32(5 * PAGE + 8), 0x5678);
  t.equal(memory.offset(address, PAGE + 1), -1, 'the page behind it is not mapped');
  t.same(memory.denied, { address: address + PAGE, write: false });
  for (const [gpa, length] of [
    [-1, 1],
    [space.share.size, 1],
    [space.share.size - 1, 2],
    [2 ** 64, 1],
  ] as const) {
    t.equal(memory.offset(gpa, length), -1, `${gpa}`);
  }
  space.unmap(address, PAGE);
  t.equal(memory.offset(address, 4), -1);
  close();
});

t.test('writing needs its permission, and so does reading', async (t) => {
  const { space, memory, close } = setUp();
  space.map(0, 0, PAGE, ACCESS_READ);
  space.map(PAGE, 0, PAGE, ACCESS_WRITE);
  space.map(2 * PAGE, 0, PAGE, 0);
  const seen = [0, 1, 2].map((page) =>
    [false, true].map((write) => memory.offset(page * PAGE, 8, write) >= 0),
  );
  t.same(seen, [
    [true, false],
    [false, true],
    [false, false],
  ]);
  close();
});

t.test('an access that was permitted before harms nothing afterwards', async (t) => {
  const { ram, space, memory, close } = setUp();
  space.map(0, 0, 2 * PAGE, RW);
  const stale = memory.bytes(0, 2 * PAGE);
  ram.writeU32(0, 77);
  space.unmap(0, 2 * PAGE);
  const bytes = memory.share.address;
  const fd = sys.check(sys.open('/dev/zero', 0), 'open', '/dev/zero');
  t.ok(sys.read(fd, bytes, PAGE) < 0, 'a system call fails');
  sys.close(fd);
  t.equal(stale[0], 0, 'a load meets zeroes');
  stale[0] = 1;
  t.equal(ram.readU32(0), 77, 'a store does not reach RAM');
  space.map(0, 0, PAGE, ACCESS_READ);
  t.equal(stale[0], 77);
  stale[0] = 1;
  t.equal(ram.readU32(0), 77, 'nor does one to a page that may only be read');
  close();
});

t.test('bypass is guest RAM at its own addresses, with the gap in it', async (t) => {
  const { ram, space, memory, close } = setUp(3 * GiB + 2 * MiB);
  t.equal(iovaSize(ram), 5 * GiB);
  space.bypass();
  ram.writeU32(3 * GiB, 99);
  t.equal(memory.readU32(memory.offset(4 * GiB, 4, true)), 99);
  t.equal(memory.offset(3 * GiB, 1), -1);
  t.equal(memory.offset(3 * GiB - 4, 4), 3 * GiB - 4);
  t.equal(memory.offset(4 * GiB + 2 * MiB, 1), -1);
  space.clear();
  t.equal(memory.offset(0, 1), -1);
  close();
});

t.test('locate agrees with offset', async () => {
  const { space, memory, close } = setUp();
  for (const [at, access] of [
    [0, RW],
    [1, ACCESS_READ],
    [4, ACCESS_WRITE],
    [GiB / PAGE - 1, RW],
    [GiB / PAGE, RW],
    [(4 * GiB) / PAGE - 1, RW],
  ] as const) {
    space.map(at * PAGE, at === 0 ? 0 : PAGE, PAGE, access);
  }
  const near = fc.constantFrom(0, PAGE, 5 * PAGE, GiB, 4 * GiB, 2 ** 63, 2 ** 64 - 4096);
  const gpa = fc
    .tuple(near, fc.integer({ min: -9000, max: 9000 }))
    .map(([a, b]) => a + b)
    .filter((address) => address < 2 ** 64);
  const length = fc.oneof(fc.nat(40), fc.nat(9000), fc.nat(2 ** 32 - 1));
  fc.assert(
    fc.property(gpa, length, fc.boolean(), (address, bytes, write) => {
      const low = (((address % 2 ** 32) + 2 ** 32) % 2 ** 32) | 0;
      const high = Math.floor(address / 2 ** 32) | 0;
      const chunk = memory.locate(low, high, bytes | 0, write);
      const found = chunk < 0 ? -1 : chunk * CHUNK + memory.position;
      return found === memory.offset(address, bytes, write);
    }),
    { numRuns: 5000, seed: 20261129 },
  );
  close();
});

t.test('nothing is left of it', async (t) => {
  const maps = (): number => readFileSync('/proc/self/maps', 'latin1').split('\n').length;
  setUp().close();
  const before = maps();
  for (let round = 0; round < 5; round++) {
    const { space, close } = setUp();
    for (let page = 0; page < 100; page++) space.map(page * 2 * PAGE, page * PAGE, PAGE, RW);
    t.ok(maps() > before + 100);
    close();
  }
  t.ok(maps() <= before + 20, 'mappings');
});
