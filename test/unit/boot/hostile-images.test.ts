/** Whatever a kernel file holds: a UsageError or a boot, and never a byte outside of the guest's RAM. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import t from 'tap';
import { setup_header } from '../../../src/abi/linux-boot.ts';
import { type BootProtocol, loadGuest } from '../../../src/boot/boot.ts';
import { UsageError } from '../../../src/host/errors.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { bzImage, elfKernel, kernelCode } from '../../support/fixtures/kernel-image.ts';

const MiB = 2 ** 20;
const directory = t.testdir();
const path = join(directory, 'kernel');
const ram = new Ram(32 * MiB);
t.teardown(() => ram[Symbol.dispose]());

/** Loads a spoilt image; only a UsageError may come of it. */
async function survives(image: Uint8Array, protocol: BootProtocol): Promise<void> {
  writeFileSync(path, image);
  const { memory } = ram;
  const plan = { memory, kernel: path, commandLine: 'a', cpus: 1, cacheDir: directory, protocol };
  try {
    const { kernel, state } = await loadGuest(plan);
    if (memory.offset(kernel.gpa, kernel.size) < 0) throw new Error('kernel outside of RAM');
    if (memory.offset(state.rip, 1) < 0) throw new Error('entry outside of RAM');
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    if (error.message.includes('\n')) throw new Error('more than one line');
  }
}

/** Values that break arithmetic more often than random ones. */
const word = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.constantFrom(0n, 1n, 0x7fff_ffffn, 0xffff_ffffn, 2n ** 53n, 2n ** 63n, 2n ** 64n - 1n),
  fc.bigInt({ min: 0n, max: 0x200_0000n }),
);

/** Overwrites bytes, 8-byte words and the length, within `head` bytes of the start. */
function spoil(sound: Uint8Array, head: number) {
  const edit = fc.record({
    at: fc.nat(head - 8),
    width: fc.constantFrom(1, 2, 4, 8),
    value: word,
  });
  return fc
    .record({
      edits: fc.array(edit, { minLength: 1, maxLength: 6 }),
      length: fc.option(fc.nat(sound.length)),
    })
    .map(({ edits, length }) => {
      const image = sound.slice();
      const view = new DataView(image.buffer);
      for (const { at, width, value } of edits) {
        for (let byte = 0; byte < width; byte++) {
          view.setUint8(at + byte, Number((value >> BigInt(8 * byte)) & 0xffn));
        }
      }
      return image.subarray(0, length ?? image.length);
    });
}

const protocols = fc.constantFrom<BootProtocol[]>('auto', 'pvh', 'linux64', 'linux32');

for (const bits of [32, 64] as const) {
  t.test(`ELF headers and notes, ${bits} bits`, async () => {
    const sound = elfKernel({ bits });
    // The notes come last: put them under the edits too.
    const images = fc.oneof(
      spoil(sound, 64 + 2 * 56),
      spoil(sound, sound.length).filter((image) => image.length === sound.length),
    );
    await fc.assert(fc.asyncProperty(images, protocols, survives), { numRuns: 300 });
  });
}

t.test('setup headers, with a payload and without', async () => {
  const end = 0x1f1 + setup_header.size;
  const bare = bzImage(kernelCode(5000), { payload_offset: 0, payload_length: 0 });
  const images = fc.oneof(spoil(bzImage(), end), spoil(bare, end));
  await fc.assert(fc.asyncProperty(images, protocols, survives), { numRuns: 400 });
});

t.test('files that look like something else', async () => {
  const starts = [
    'MZ',
    '070701',
    '\x1f\x8b\x08',
    '\x02\xb0\xad\x1b',
    '\xd6\x50\x52\xe8',
    '\x7fELF',
    '',
  ];
  const images = fc
    .tuple(fc.constantFrom(...starts), fc.uint8Array({ maxLength: 2000 }), fc.nat(0x200))
    .map(([start, rest, pe]) => {
      const bytes = Buffer.concat([Buffer.from(start, 'latin1'), rest]);
      // Where a PE header lies, and one there.
      if (bytes.length >= 0x40) bytes.writeUInt32LE(pe, 0x3c);
      bytes.write('PE\0\0', Math.min(pe, bytes.length), 'latin1');
      return bytes;
    });
  await fc.assert(fc.asyncProperty(images, protocols, survives), { numRuns: 400 });
});

t.test('whatever a gzip file holds', async () => {
  const contents = fc.oneof(
    spoil(elfKernel(), 64 + 2 * 56),
    spoil(bzImage(), 0x300),
    fc.uint8Array({ maxLength: 2000 }),
  );
  const refused = async (content: Uint8Array): Promise<void> => {
    writeFileSync(path, gzipSync(content));
    const plan = { memory: ram.memory, kernel: path, commandLine: 'a', cpus: 1 };
    await assert.rejects(loadGuest(plan), UsageError);
  };
  await fc.assert(fc.asyncProperty(contents, refused), { numRuns: 200 });
});
