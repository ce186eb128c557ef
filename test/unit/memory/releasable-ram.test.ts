/** Pages of guest RAM that go back to the host. */
import { fstatSync, readFileSync } from 'node:fs';
import t from 'tap';
import { Ram } from '../../../src/memory/ram.ts';
import { ReleasableRam } from '../../../src/memory/releasable-ram.ts';

const MiB = 2 ** 20;
const PAGE = 4096;

/** Resident bytes of the mapping at an address. */
function residentAt(address: number): number {
  const maps = readFileSync('/proc/self/smaps', 'latin1').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const found = maps.find((text) => {
    const [, start = '', end = ''] = /^([0-9a-f]+)-([0-9a-f]+)/.exec(text) ?? [];
    return Number.parseInt(start, 16) <= address && address < Number.parseInt(end, 16);
  });
  return Number(/^Rss:\s+(\d+)/m.exec(found ?? '')?.[1] ?? 0) * 1024;
}

for (const backing of ['anonymous', 'memfd'] as const) {
  t.test(`whole pages are the host's again (${backing})`, async (t) => {
    using ram = new Ram(64 * MiB, backing);
    const { memory } = ram;
    memory.bytes(0, 64 * MiB).fill(1);
    const releasable = new ReleasableRam(memory);
    t.equal(releasable.pageSize, PAGE);
    const { address, fd } = memory.share;
    const before = residentAt(address);
    t.equal(releasable.release(8 * MiB - 100, 32 * MiB + 200), 0);
    t.equal(before - residentAt(address), 32 * MiB);
    if (fd >= 0) t.equal(fstatSync(fd).blocks * 512, 32 * MiB);
    t.same([memory.readU8(8 * MiB - 1), memory.readU8(8 * MiB)], [1, 0]);
    t.same([memory.readU8(40 * MiB - 1), memory.readU8(40 * MiB)], [0, 1]);
    t.equal(releasable.release(PAGE - 1, PAGE), 0, 'no whole page');
    t.equal(memory.readU8(PAGE), 1);
  });
}

t.test('only RAM of this process can be given back', async (t) => {
  using ram = new Ram(2 * MiB);
  const share = { ...ram.memory.share, pages: new SharedArrayBuffer(512) };
  t.throws(() => new ReleasableRam({ ...ram.memory, share } as never), { code: 'E_INTERNAL' });
});
