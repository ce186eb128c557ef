/** Every compression that Linux' CONFIG_KERNEL_* offers, against the programs that its build uses. */
import { spawnSync } from 'node:child_process';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { decodeLz4Legacy, decompressKernel } from '../../../src/boot/decompress.ts';
import { kernelCode, withLength } from '../../support/fixtures/kernel-image.ts';

const MiB = 2 ** 20;
/** More than one block of LZ4's legacy frame. */
const kernel = kernelCode(9 * MiB);

/** The command lines of the kernel's scripts/Makefile.lib, at faster levels. */
const PACKERS: readonly (readonly [string, string, ...string[]])[] = [
  ['bzip2', 'bzip2', '-c', '-1'],
  ['lzma', 'xz', '--format=lzma', '-c', '-1'],
  ['xz', 'xz', '--check=crc32', '--x86', '--lzma2=preset=1', '-c'],
  ['lzo', 'lzop', '-c', '-1'],
  ['lz4', 'lz4', '-l', '-c', '-1'],
  ['zstd', 'zstd', '-c', '-1'],
];

for (const [format, command, ...args] of PACKERS) {
  const packed = spawnSync(command, args, { input: kernel, maxBuffer: 64 * MiB });
  const skip = packed.status === 0 ? false : `the program ${command} is not installed`;
  t.test(`CONFIG_KERNEL_${format.toUpperCase()}`, { skip }, async (t) => {
    const payload = withLength(packed.stdout, kernel.length);
    t.ok(Buffer.from(kernel).equals(await decompressKernel(payload, 'kernel k')));

    const damaged = { name: 'UsageError', code: 'E_DAMAGED', message: /^kernel k is damaged: / };
    const cut = withLength(packed.stdout.subarray(0, packed.stdout.length / 2), kernel.length);
    await t.rejects(decompressKernel(cut, 'kernel k'), damaged, 'cut');
    const longer = withLength(packed.stdout, kernel.length + 1);
    await t.rejects(decompressKernel(longer, 'kernel k'), damaged, 'longer than it is');
    const shorter = withLength(packed.stdout, kernel.length - 1);
    await t.rejects(decompressKernel(shorter, 'kernel k'), damaged, 'shorter than it is');
    const huge = withLength(packed.stdout, 0xffff_ffff);
    await t.rejects(decompressKernel(huge, 'kernel k'), damaged, 'a length that no kernel has');
  });
}

t.test('CONFIG_KERNEL_GZIP: the length is the ISIZE of RFC 1952 §2.3.1', async (t) => {
  const payload = gzipSync(kernel, { level: 1 });
  t.ok(Buffer.from(kernel).equals(await decompressKernel(payload, 'kernel k')));
  const cut = payload.subarray(0, 1000);
  await t.rejects(decompressKernel(cut, 'kernel k'), { code: 'E_DAMAGED' });
});

t.test('an unknown format', async (t) => {
  await t.rejects(decompressKernel(new Uint8Array(100), 'kernel k'), {
    name: 'UsageError',
    code: 'E_UNKNOWN_COMPRESSION',
  });
});

t.test('a missing program is named with its package', async (t) => {
  const path = process.env.PATH;
  process.env.PATH = '/nonexistent';
  t.teardown(() => {
    process.env.PATH = path;
  });
  const payload = withLength(Uint8Array.from([0x42, 0x5a, 0x68, ...kernelCode(40)]), 100);
  await t.rejects(decompressKernel(payload, 'kernel k'), {
    name: 'UsageError',
    code: 'E_MISSING_TOOL',
    message: /install the package bzip2$/,
  });
});

t.test('LZ4 Block Format: literals, overlapping matches, long lengths', async (t) => {
  const frame = (...block: number[]): Uint8Array =>
    Uint8Array.from([0x02, 0x21, 0x4c, 0x18, block.length, 0, 0, 0, ...block]);
  const decode = (size: number, ...block: number[]): number[] | undefined => {
    const output = decodeLz4Legacy(frame(...block), size);
    return output === undefined ? undefined : [...output];
  };
  t.same(decode(2, 0x20, 7, 8), [7, 8], 'literals only');
  t.same(decode(9, 0x23, 7, 8, 2, 0, 0), [7, 8, 7, 8, 7, 8, 7, 8, 7], 'overlap at distance 2');
  const long = decode(1 + 4 + 15 + 255 + 3 + 1, 0x1f, 9, 1, 0, 255, 3, 0x10, 5);
  t.same(long, [...Array.from({ length: 278 }, () => 9), 5], 'a match of 15 + 255 + 3 + 4');
  t.equal(decode(9, 0x23, 7, 8, 0, 0, 0), undefined, 'offset 0');
  t.equal(decode(9, 0x23, 7, 8, 3, 0, 0), undefined, 'an offset before the block');
  t.equal(decode(8, 0x23, 7, 8, 2, 0, 0), undefined, 'more output than announced');
  t.equal(decode(9, 0x23, 7, 8, 2), undefined, 'half an offset');
  t.equal(decode(9, 0xf3, 255), undefined, 'an endless length');
  t.equal(decode(9, 0x23, 7), undefined, 'missing literals');
});
