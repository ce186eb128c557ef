/** Kinds of images, and errors for those that are no kernel for this machine. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { BufferSource } from '../../../src/boot/byte-source.ts';
import { parseElf } from '../../../src/boot/elf.ts';
import { isLinux, kernelKind } from '../../../src/boot/kernel-image.ts';
import { bzImage, elfKernel, KERNEL_GPA, linuxImage } from '../../support/fixtures/kernel-image.ts';

const source = (bytes: Uint8Array): BufferSource => new BufferSource(bytes, 'kernel k');

/** Zeros with text, a character a byte, at some places. */
function fileWith(size: number, ...parts: readonly (readonly [number, string])[]): Uint8Array {
  const bytes = Buffer.alloc(size);
  for (const [at, text] of parts) bytes.write(text, at, 'latin1');
  return bytes;
}

/** A PE image with sections. */
function pe(machine: number, ...sections: readonly string[]): Uint8Array {
  const bytes = Buffer.alloc(1024);
  bytes.write('MZ', 0);
  bytes.writeUInt32LE(0x80, 0x3c);
  bytes.write('PE\0\0', 0x80);
  bytes.writeUInt16LE(machine, 0x84);
  bytes.writeUInt16LE(sections.length, 0x86);
  bytes.writeUInt16LE(0xf0, 0x94);
  for (const [index, name] of sections.entries()) bytes.write(name, 0x80 + 24 + 0xf0 + 40 * index);
  return bytes;
}

/** Multiboot headers: magic, flags, checksum; the second version has its length in between. */
function multiboot(version: 1 | 2, at: number, size = 40_000, wrong = 0): Uint8Array {
  const words = version === 1 ? [0x1badb002, 3] : [0xe85250d6, 0, 16];
  const checksum = 2 ** 33 - words.reduce((sum, word) => sum + word, 0) + wrong;
  const header = Buffer.from(Uint32Array.of(...words, checksum % 2 ** 32).buffer);
  const bytes = Buffer.alloc(size);
  header.copy(bytes, at);
  return bytes;
}

/** The header lies on a multiple of 8 in the file. */
const multibootElf = (bits: 32 | 64, version: 1 | 2, pvhEntry: number | null): Uint8Array => {
  const bytes = multiboot(version, bits === 64 ? 8 : 4);
  return elfKernel({ bits, segments: [{ paddr: KERNEL_GPA, bytes }], pvhEntry });
};

t.test('kernels', async (t) => {
  t.equal(kernelKind(source(elfKernel())), 'elf');
  t.equal(kernelKind(source(elfKernel({ bits: 32 }))), 'elf');
  t.equal(kernelKind(source(bzImage())), 'bzimage');
});

t.test('Linux, by what a bzImage says of its version, and by the notes of a vmlinux', async (t) => {
  const folder = t.testdir();
  const files: readonly (readonly [string, Uint8Array, boolean])[] = [
    ['bzImage', linuxImage('6.12.48-cloud-amd64 (builder) #1'), true],
    ['other bzImage', bzImage(), false],
    ['memtest', linuxImage('Memtest86+ v7.00'), false],
    ['cut', linuxImage('6.12.48').subarray(0, 1000), false],
    ['vmlinux', elfKernel({ linux: true }), true],
    ['vmlinux of 32 bits', elfKernel({ linux: true, bits: 32 }), true],
    ['other ELF', elfKernel(), false],
    ['text', new Uint8Array(5000).fill(0x36), false],
  ];
  for (const [name, bytes, expected] of files) {
    const file = path.join(folder, name);
    writeFileSync(file, bytes);
    t.equal(isLinux(file), expected, name);
  }
  t.equal(isLinux(path.join(folder, 'none')), false);
  t.equal(isLinux(folder), false);
});

t.test('unknown files', async (t) => {
  const unknown = [
    new Uint8Array(3),
    new Uint8Array(10_000).fill(65),
    multiboot(1, 8192),
    multiboot(1, 2),
    multiboot(1, 0, 40_000, 1),
    multiboot(2, 4),
    multiboot(2, 32768),
    multiboot(2, 0, 40_000, 1),
  ];
  for (const bytes of unknown) {
    t.throws(() => kernelKind(source(bytes)), {
      name: 'UsageError',
      code: 'E_NOT_A_KERNEL',
      message:
        'kernel k is not a kernel: it is neither a bzImage nor ELF; use a vmlinuz or vmlinux',
    });
  }
});

t.test('known files are called by their name, with what to do', async (t) => {
  const cpio = fileWith(512, [0, '070701']);
  const bootSector = fileWith(512, [510, '\x55\xaa']);
  const cases: [Uint8Array, RegExp][] = [
    [new Uint8Array(0), /^kernel k is empty;/],
    [cpio, /a cpio archive, .*; pass it as the initrd/],
    [bootSector, /a boot sector or disk image; attach it as a disk/],
    [fileWith(0x9000, [0x8001, 'CD001']), /ISO 9660/],
    [fileWith(512, [0, 'QFI\xfb']), /qcow2/],
    [fileWith(0x1000, [0x38, 'ARMd']), /an AArch64 Linux kernel; use a vmlinuz/],
    [fileWith(0x1000, [0, 'MZ'], [0x38, 'ARMd']), /an AArch64 Linux kernel/],
    [fileWith(0x1000, [0x38, 'RSC\x05']), /a RISC-V Linux kernel/],
    [fileWith(0x1000, [0x24, '\x18\x28\x6f\x01']), /an Arm Linux kernel/],
    [fileWith(64, [0, '#!/bin/sh\n']), /a script/],
    [pe(0x8664, '.text', '.linux', '.initrd'), /a unified kernel image for x86-64.*objcopy/],
    [pe(0xaa64, '.text', '.linux'), /a unified kernel image for AArch64/],
    [pe(0x8664, '.text'), /an EFI program for x86-64/],
    [pe(0xaa64), /an EFI program for AArch64/],
    [multiboot(1, 8180), /a multiboot kernel without a PVH entry point; use a Linux kernel/],
    [multiboot(2, 32752), /a multiboot kernel/],
    [fileWith(64, [0, '\xfd7zXZ\0']), /compressed with xz; unpack it with xz -d/],
    [fileWith(64, [0, '\x28\xb5\x2f\xfd']), /compressed with zstd/],
    [fileWith(64, [0, '\x1f\x8b']), /compressed with gzip; unpack it with gunzip/],
    [gzipSync(elfKernel()), /^kernel k is compressed with gzip; unpack it with gunzip/],
    [gzipSync(bzImage()), /^kernel k is compressed with gzip; unpack/],
    [gzipSync(Buffer.alloc(100_000)), /^kernel k is compressed with gzip; unpack/],
    [gzipSync(gzipSync(cpio)), /^kernel k, unpacked, is compressed with gzip; unpack/],
    [gzipSync(cpio), /^kernel k, unpacked, is a cpio archive, .*initrd/],
    [gzipSync(multibootElf(64, 1, null)), /^kernel k, unpacked, is a multiboot kernel/],
    [gzipSync(bzImage(undefined, { version: 0x203 })), /^kernel k, unpacked, .* protocol 2\.03/],
  ];
  for (const [bytes, message] of cases) {
    const expected = { name: 'UsageError', code: 'E_NOT_A_KERNEL', message };
    t.throws(() => kernelKind(source(bytes)), expected, String(message));
  }
});

t.test('multiboot kernels: taken by their PVH entry, refused without', async (t) => {
  for (const bits of [32, 64] as const) {
    for (const version of [1, 2] as const) {
      t.throws(() => parseElf(source(multibootElf(bits, version, null))), {
        code: 'E_NOT_A_KERNEL',
        message: /^kernel k is a multiboot kernel without a PVH entry point; use [^\n]*$/,
      });
      t.equal(parseElf(source(multibootElf(bits, version, KERNEL_GPA))).pvhEntry, KERNEL_GPA);
    }
  }
});
