/** RAM that comes and goes in blocks: reached while it is plugged, and only then. */
import fc from 'fast-check';
import t from 'tap';
import { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { BLOCK_SIZE, blocksShare, PluggedBlocks } from '../../../src/memory/plugged-blocks.ts';
import { Ram } from '../../../src/memory/ram.ts';

const MiB = 2 ** 20;
const GiB = 2 ** 30;

t.test('the region lies above all other RAM, with a gap', async (t) => {
  for (const [ram, gpa] of [
    [512 * MiB, 6 * GiB],
    [3 * GiB, 6 * GiB],
    [4 * GiB, 6 * GiB],
    [5 * GiB, 8 * GiB],
    [5 * GiB - MiB, 6 * GiB],
  ] as const) {
    const share = blocksShare(ram, GiB);
    t.equal(share.gpa, gpa, `${ram / MiB}`);
    t.ok(share.offset >= ram && share.offset % BLOCK_SIZE === 0);
  }
});

t.test('a thread sees what another one plugs', async (t) => {
  using ram = new Ram(33 * MiB, 'anonymous', true, { growth: 16 * MiB });
  const { memory } = ram;
  const other = new GuestMemory(memory.share);
  const gpa = memory.blocks?.share.gpa ?? 0;
  t.equal(memory.size, 33 * MiB);
  t.equal(other.offset(gpa, 1), -1);
  memory.blocks?.set(1, 2, true);
  const at = gpa + 2 * BLOCK_SIZE - 4;
  const offset = other.offset(at, 8);
  t.equal(other.gpaOf(offset), at);
  other.writeU64(offset, 77);
  t.equal(memory.readU64(offset), 77);
  t.same(memory.bytes(offset, 1)[0], 77);
  const chunk = other.locate(at | 0, Math.floor(at / 2 ** 32), 8, true);
  t.equal(other.chunkView(chunk).getUint8(other.position), 77);
  t.equal(other.locate(gpa | 0, Math.floor(gpa / 2 ** 32), 8, true), -1);
  t.equal(other.locate(0x1000, 0, 8, true), 0, 'other RAM');
  t.equal(memory.gpaOf(34 * MiB + 20 * MiB), -1);
  t.equal(memory.reach, 3 * GiB + gpa + 16 * MiB - 4 * GiB);
  other.detach();
});

t.test('a range is reached if all of its blocks are plugged', async () => {
  const count = 12;
  const share = blocksShare(GiB, count * BLOCK_SIZE);
  fc.assert(
    fc.property(
      fc.array(fc.boolean(), { minLength: count, maxLength: count }),
      fc.integer({ min: -2, max: count * 4 + 2 }),
      fc.oneof(fc.integer({ min: 0, max: 50 }), fc.constant(2 ** 51)),
      fc.boolean(),
      (plugged, start, quarters, odd) => {
        const blocks = new PluggedBlocks(share);
        for (const [block, on] of plugged.entries()) blocks.set(block, 1, on);
        const quarter = BLOCK_SIZE / 4;
        const length = quarters * quarter + (odd ? 1 : 0);
        const from = start * quarter;
        const end = from + length;
        const within = from >= 0 && end <= count * BLOCK_SIZE;
        const all = plugged.every(
          (on, block) => on || end <= block * BLOCK_SIZE || from >= (block + 1) * BLOCK_SIZE,
        );
        const offset = blocks.offset(share.gpa + from, length);
        const expected = within && (all || length === 0) ? share.offset + from : -1;
        // What has no bytes is in no block.
        if (length > 0 && offset !== expected) throw new Error(`${offset}, not ${expected}`);
      },
    ),
  );
});
