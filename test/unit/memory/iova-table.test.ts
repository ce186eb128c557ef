/** A device's mappings, against a model by page, and what listeners learn of them. */
import fc from 'fast-check';
import t from 'tap';
import { ACCESS_READ, ACCESS_WRITE } from '../../../src/memory/guest-memory.ts';
import { type IovaMapping, IovaTable } from '../../../src/memory/iova-table.ts';

const PAGE = 4096;
const RW = ACCESS_READ | ACCESS_WRITE;

t.test('mappings are found by address and by range', async () => {
  const step = fc.record({
    first: fc.nat(15),
    count: fc.integer({ min: 1, max: 4 }),
    access: fc.constantFrom(ACCESS_READ, ACCESS_WRITE, RW),
    add: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const table = new IovaTable();
      let model: IovaMapping[] = [];
      for (const { first, count, access, add } of steps) {
        const [address, length] = [first * PAGE, count * PAGE];
        const overlaps = (one: IovaMapping): boolean =>
          one.address < address + length && one.address + one.length > address;
        const contained = (one: IovaMapping): boolean =>
          one.address >= address && one.address + one.length <= address + length;
        if (add && !model.some(overlaps)) {
          const mapping = { address, length, gpa: first * 64 * PAGE, access };
          table.add(mapping);
          model.push(mapping);
        } else if (!add && model.filter(overlaps).every(contained)) {
          table.remove(address, length);
          model = model.filter((one) => !overlaps(one));
        }
        model.sort((a, b) => a.address - b.address);
        if (JSON.stringify(table.all) !== JSON.stringify(model)) return false;
        const within = model.filter(overlaps);
        if (JSON.stringify(table.within(address, length)) !== JSON.stringify(within)) return false;
        const found = model.find(
          (one) =>
            one.address <= address + 1 &&
            address + 1 < one.address + one.length &&
            (one.access & access) === access,
        );
        if (table.find(address + 1, access) !== found) return false;
      }
      return true;
    }),
    { seed: 20261130, numRuns: 500 },
  );
});

t.test('listeners learn of changes, and are waited for', async (t) => {
  const table = new IovaTable();
  const calls: string[] = [];
  let done = (): void => {};
  const listener = {
    mapped: ({ address }: IovaMapping): undefined => {
      calls.push(`map ${address}`);
    },
    unmapped: (address: number, length: number) => {
      calls.push(`unmap ${address} ${length}`);
      return new Promise<void>((resolve) => {
        done = resolve;
      });
    },
  };
  table.add({ address: 0, length: PAGE, gpa: 0, access: RW });
  table.watch(listener);
  table.add({ address: PAGE, length: PAGE, gpa: 0, access: RW });
  table.remove(4 * PAGE, PAGE);
  t.equal(table.settled(), undefined, 'nothing was removed');
  table.remove(0, 2 * PAGE);
  t.same(calls, [`map ${PAGE}`, `unmap 0 ${2 * PAGE}`]);
  const settled = table.settled();
  t.ok(settled !== undefined);
  done();
  await settled;
  t.equal(table.settled(), undefined);
  table.unwatch(listener);
  table.add({ address: 0, length: PAGE, gpa: 0, access: RW });
  t.equal(calls.length, 2);
});
