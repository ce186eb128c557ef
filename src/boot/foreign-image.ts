/** Identifies files that are not kernels for this machine, for the error that refuses them. */
import { type ByteSource, readView } from './byte-source.ts';
import { isMultiboot } from './multiboot.ts';
import { parsePe } from './pe-image.ts';

/** A file that cannot be booted as a kernel. */
export interface ForeignImage {
  /** Behind "is": `a cpio archive`. */
  readonly what: string;
  /** What to do. */
  readonly remedy: string;
}

/** The farthest magic number is that of ISO 9660. */
const HEAD_SIZE = 0x9000;

const NAME_X86 = 'use a vmlinuz or vmlinux for x86';
const AS_INITRD = 'pass it as the initrd, and a vmlinuz as the kernel';
const AS_DISK = 'attach it as a disk, and use a vmlinuz as the kernel';

interface Magic extends ForeignImage {
  readonly at: number;
  /** A character a byte. */
  readonly bytes: string;
}

const unpackWith = (command: string): string =>
  `unpack it with ${command} and use the result, or pass it as the initrd if it is one`;

/** Where a boot sector's signature lies, which other formats may have too. */
const BOOT_SIGNATURE_AT = 0x1fe;

const MAGICS: readonly Magic[] = [
  { at: 0, bytes: '\x1f\x8b', what: 'compressed with gzip', remedy: unpackWith('gunzip') },
  { at: 0, bytes: '\xfd7zXZ\0', what: 'compressed with xz', remedy: unpackWith('xz -d') },
  { at: 0, bytes: '\x28\xb5\x2f\xfd', what: 'compressed with zstd', remedy: unpackWith('zstd -d') },
  { at: 0, bytes: 'BZh', what: 'compressed with bzip2', remedy: unpackWith('bzip2 -d') },
  { at: 0, bytes: '\x89LZO\0', what: 'compressed with lzop', remedy: unpackWith('lzop -d') },
  { at: 0, bytes: '\x02\x21\x4c\x18', what: 'compressed with lz4', remedy: unpackWith('lz4 -d') },
  { at: 0, bytes: '\x04\x22\x4d\x18', what: 'compressed with lz4', remedy: unpackWith('lz4 -d') },
  { at: 0, bytes: '\x5d\0\0', what: 'compressed with lzma', remedy: unpackWith('xz -d') },
  { at: 0x38, bytes: 'ARM\x64', what: 'an AArch64 Linux kernel', remedy: NAME_X86 },
  { at: 0x38, bytes: 'RSC\x05', what: 'a RISC-V Linux kernel', remedy: NAME_X86 },
  { at: 0x38, bytes: '\xcd\x23\x82\x81', what: 'a LoongArch Linux kernel', remedy: NAME_X86 },
  { at: 0x24, bytes: '\x18\x28\x6f\x01', what: 'an Arm Linux kernel', remedy: NAME_X86 },
  { at: 0, bytes: '\x27\x05\x19\x56', what: 'a U-Boot image', remedy: NAME_X86 },
  { at: 0, bytes: '\xd0\x0d\xfe\xed', what: 'a device tree', remedy: NAME_X86 },
  { at: 0, bytes: 'ANDROID!', what: 'an Android boot image', remedy: NAME_X86 },
  { at: 0, bytes: '0707', what: 'a cpio archive, such as an initrd', remedy: AS_INITRD },
  { at: 0, bytes: 'QFI\xfb', what: 'a qcow2 disk image', remedy: `convert it to raw, ${AS_DISK}` },
  { at: 0x8001, bytes: 'CD001', what: 'an ISO 9660 image', remedy: AS_DISK },
  { at: 0, bytes: 'hsqs', what: 'a squashfs file system', remedy: AS_DISK },
  { at: 0x438, bytes: '\x53\xef', what: 'an ext4 file system', remedy: AS_DISK },
  { at: 0x101, bytes: 'ustar', what: 'a tar archive', remedy: NAME_X86 },
  { at: 0, bytes: '!<arch>\n', what: 'a Debian package or an ar archive', remedy: NAME_X86 },
  { at: 0, bytes: '#!', what: 'a script', remedy: NAME_X86 },
  {
    at: BOOT_SIGNATURE_AT,
    bytes: '\x55\xaa',
    what: 'a boot sector or disk image',
    remedy: AS_DISK,
  },
];

/**
 * Says what a file is that is neither ELF nor a bzImage.
 * @returns undefined when nothing known is recognized
 */
export function identifyForeignImage(source: ByteSource): ForeignImage | undefined {
  if (source.size === 0) return { what: 'empty', remedy: NAME_X86 };
  const view = readView(source, 0, Math.min(source.size, HEAD_SIZE));
  const head = Buffer.from(view.buffer, 0, view.byteLength);
  const isHere = ({ at, bytes }: Magic): boolean =>
    head.toString('latin1', at, at + bytes.length) === bytes;
  const known = MAGICS.find(isHere);
  if (known !== undefined && known.at !== BOOT_SIGNATURE_AT) return known;
  return identifyPe(source) ?? (isMultiboot(source) ? MULTIBOOT : known);
}

/** A kernel for boot loaders of another protocol. */
export const MULTIBOOT: ForeignImage = {
  what: 'a multiboot kernel without a PVH entry point',
  remedy: 'use a Linux kernel, or build this one with the note XEN_ELFNOTE_PHYS32_ENTRY',
};

function identifyPe(source: ByteSource): ForeignImage | undefined {
  const image = parsePe(source);
  if (image === undefined) return undefined;
  const { machine, sections } = image;
  if (sections.includes('.linux')) {
    return {
      what: `a unified kernel image for ${machine}, which needs EFI`,
      remedy: 'extract the kernel with objcopy -O binary -j .linux, and the initrd with -j .initrd',
    };
  }
  return {
    what: `an EFI program for ${machine}, which needs EFI`,
    remedy: NAME_X86,
  };
}
