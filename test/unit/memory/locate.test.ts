import fc from 'fast-check';
import t from 'tap';
import { CHUNK } from '../../../src/memory/guest-memory.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { GiB, HIGH_RAM_BASE } from '../../../src/memory/ram-layout.ts';

t.test('locate finds what offset finds, from 32-bit halves', async (t) => {
  using ram = new Ram(6 * GiB);
  const { memory } = ram;
  const near = (base: number) =>
    fc.integer({ min: -20, max: 20 }).map((d) => Math.max(0, base + d));
  const gpa = fc.oneof(
    fc.nat(7 * GiB),
    ...[0, GiB, 2 * GiB, 3 * GiB, HIGH_RAM_BASE, 5 * GiB, 7 * GiB, 2 ** 52].map(near),
  );
  const length = fc.oneof(fc.nat(40), fc.nat(2 ** 32 - 1));
  fc.assert(
    fc.property(gpa, length, (address, bytes) => {
      const low = (address % 2 ** 32) | 0;
      const high = Math.floor(address / 2 ** 32) | 0;
      const chunk = memory.locate(low, high, bytes | 0, false);
      const found = chunk < 0 ? -1 : chunk * CHUNK + memory.position;
      return found === memory.offset(address, bytes);
    }),
    { numRuns: 5000, seed: 20260103 },
  );
  t.equal(memory.locate(-1, -1, 1, false), -1, 'the last byte of the address space');
});
