/** What a kernel image is: a bzImage with its setup header, an ELF kernel, or something that cannot be booted. */
import { gunzipSync } from 'node:zlib';
import { ELF_MAGIC } from '../abi/elf.ts';
import * as abi from '../abi/linux-boot.ts';
import { UsageError } from '../host/errors.ts';
import { MiB } from '../memory/ram-layout.ts';
import { BufferSource, type ByteSource, FileSource, readView, truncated } from './byte-source.ts';
import { parseElf } from './elf.ts';
import { isMultiboot, MULTIBOOT } from './pvh.ts';

/** The setup header ends here at the latest: the e820 table follows. */
const SETUP_HEADER_LIMIT = 0x290;

/** A checked setup header. */
export interface BzImage {
  /** The setup header as it goes into the zero page at SETUP_HEADER_OFFSET. */
  readonly header: Uint8Array;
  /** Boot protocol version, e.g. 0x20f. */
  readonly version: number;
  /** File offset and length of the protected-mode code. */
  readonly codeOffset: number;
  readonly codeSize: number;
  /**
   * File offset and length of the compressed vmlinux, with its trailing length. A length of 0: the
   * code is no kernel that unpacks itself.
   */
  readonly payloadOffset: number;
  readonly payloadSize: number;
  /** Longest command line, without NUL. */
  readonly commandLineSize: number;
  /** Highest address that the initrd's last byte may have. */
  readonly initrdAddrMax: number;
  /** Where the kernel prefers to run, and how much memory it needs there to unpack itself; 0: unknown. */
  readonly prefAddress: number;
  readonly initSize: number;
  /** True when the compressed kernel has a 64-bit entry point. */
  readonly entry64: boolean;
}

/**
 * Reads and checks the setup header of a bzImage.
 * @throws UsageError; no file content leads to any other error
 */
export function parseBzImage(source: ByteSource): BzImage {
  const head = readView(source, 0, SETUP_HEADER_LIMIT);
  const at = (field: keyof typeof abi.setup_header & string): number => {
    const entry = abi.setup_header[field];
    return abi.SETUP_HEADER_OFFSET + (typeof entry === 'number' ? entry : entry.offset);
  };
  const u16 = (field: Parameters<typeof at>[0]): number => head.getUint16(at(field), true);
  const u32 = (field: Parameters<typeof at>[0]): number => head.getUint32(at(field), true);
  const bad = (why: string): UsageError =>
    new UsageError(
      'E_NOT_A_KERNEL',
      `${source.name} is not a bootable bzImage: ${why}`,
      'use a kernel for x86',
    );

  if (u32('header') !== abi.SETUP_HEADER_MAGIC || u16('boot_flag') !== abi.BOOT_FLAG_MAGIC) {
    throw bad('its setup header is damaged');
  }
  const version = u16('version');
  if (version < abi.PROTOCOL_PAYLOAD) {
    const text = `${version >> 8}.${(version & 0xff).toString(16).padStart(2, '0')}`;
    throw bad(`its boot protocol ${text} is older than 2.08`);
  }
  if ((head.getUint8(at('loadflags')) & abi.LOADED_HIGH) === 0) throw bad('it is a zImage');

  const sectors = head.getUint8(at('setup_sects')) || abi.DEFAULT_SETUP_SECTS;
  const codeOffset = (sectors + 1) * abi.SECTOR_SIZE;
  const payloadOffset = codeOffset + u32('payload_offset');
  const payloadSize = u32('payload_length');
  // syssize counts units of 16 bytes, of which the last need not be whole.
  const codeEnd = codeOffset + Math.max(0, u32('syssize') * 16 - 15);
  const end = payloadSize > 0 ? Math.max(payloadOffset + payloadSize, codeOffset) : codeEnd;
  if (end > source.size) throw truncated(source.name, end, source.size);
  if (payloadSize > 0 && payloadSize < 8) throw bad('its payload is damaged');
  if (end === codeOffset) throw bad('it has no code');

  // The byte at 0x201 is the offset of a short jump over the header: where the header ends.
  const headerEnd = Math.min(0x202 + head.getUint8(0x201), SETUP_HEADER_LIMIT);
  const header = new Uint8Array(
    head.buffer,
    abi.SETUP_HEADER_OFFSET,
    headerEnd - abi.SETUP_HEADER_OFFSET,
  );
  const hasInitSize = version >= abi.PROTOCOL_INIT_SIZE;
  const prefAddress = hasInitSize ? head.getBigUint64(at('pref_address'), true) : 0n;
  const initSize = hasInitSize ? u32('init_size') : 0;
  return {
    header,
    version,
    codeOffset,
    // What follows the code, such as a signature, is not loaded.
    codeSize: Math.min(u32('syssize') * 16, source.size - codeOffset),
    payloadOffset,
    payloadSize,
    commandLineSize:
      version >= abi.PROTOCOL_CMDLINE_SIZE ? u32('cmdline_size') : abi.COMMAND_LINE_SIZE - 1,
    initrdAddrMax: u32('initrd_addr_max'),
    // As doubles: anything beyond 2^53 is rounded, and not RAM either way.
    prefAddress: Number(prefAddress) || abi.DEFAULT_LOAD_ADDRESS,
    initSize,
    entry64:
      version >= abi.PROTOCOL_XLOADFLAGS &&
      (u16('xloadflags') & abi.XLF_KERNEL_64) !== 0 &&
      initSize > 0,
  };
}

const GZIP_MAGIC = 0x8b1f;
/** How much is unpacked at most to identify the content. */
const LARGEST_GZIP = 64 * MiB;
const LARGEST_UNPACKED = 256 * MiB;

export type KernelKind = 'elf' | 'bzimage';

/** @throws UsageError E_NOT_A_KERNEL when it is neither, with what it is, and what to use instead */
export function kernelKind(source: ByteSource): KernelKind {
  const kind = recognize(source);
  if (kind !== undefined) return kind;
  throw insideGzip(source) ?? notAKernel(source);
}

function recognize(source: ByteSource): KernelKind | undefined {
  const word = (at: number): number | undefined =>
    at + 4 <= source.size ? readView(source, at, 4).getUint32(0, true) : undefined;
  if (word(0) === ELF_MAGIC) return 'elf';
  const magic = word(abi.SETUP_HEADER_OFFSET + abi.setup_header.header.offset);
  return magic === abi.SETUP_HEADER_MAGIC ? 'bzimage' : undefined;
}

function notAKernel(source: ByteSource): UsageError {
  const foreign = identifyForeignImage(source);
  const what = foreign?.what ?? 'not a kernel: it is neither a bzImage nor ELF';
  const remedy = foreign?.remedy ?? 'use a vmlinuz or vmlinux';
  return new UsageError('E_NOT_A_KERNEL', `${source.name} is ${what}`, remedy);
}

/** The error for a gzip file's content. Undefined if it is worth unpacking, or not a gzip file. */
function insideGzip(source: ByteSource): UsageError | undefined {
  const inside = gunzip(source);
  if (inside === undefined) return undefined;
  try {
    const kind = recognize(inside);
    if (kind === 'elf') parseElf(inside);
    else if (kind === 'bzimage') parseBzImage(inside);
    else if (identifyForeignImage(inside) !== undefined) return notAKernel(inside);
    return undefined;
  } catch (error) {
    if (error instanceof UsageError) return error;
    throw error;
  }
}

function gunzip(source: ByteSource): ByteSource | undefined {
  if (source.size < 2 || source.size > LARGEST_GZIP) return undefined;
  if (readView(source, 0, 2).getUint16(0, true) !== GZIP_MAGIC) return undefined;
  const packed = readView(source, 0, source.size);
  try {
    const bytes = gunzipSync(packed, { maxOutputLength: LARGEST_UNPACKED });
    return new BufferSource(bytes, `${source.name}, unpacked,`);
  } catch {
    return undefined;
  }
}

// PE images (Microsoft PE Format), which EFI runs: for what processor, and whether a kernel is inside.

/** Headers lie in the first pages of a file. */
const PE_HEAD_SIZE = 0x1_0000;
const MZ_MAGIC = 0x5a4d;
const PE_OFFSET = 0x3c;
const PE_MAGIC = 0x0000_4550;
/** COFF file header, from the magic on. */
const MACHINE = 4;
const NUMBER_OF_SECTIONS = 6;
const SIZE_OF_OPTIONAL_HEADER = 20;
const SECTION_TABLE = 24;
const SECTION_HEADER_SIZE = 40;
const SECTION_NAME_SIZE = 8;

const MACHINES: Readonly<Record<number, string>> = {
  332: '32-bit x86',
  448: 'Arm',
  452: 'Arm',
  20530: 'RISC-V',
  20580: 'RISC-V',
  25188: 'LoongArch',
  34404: 'x86-64',
  43620: 'AArch64',
};

/** The relevant header fields. */
export interface PeImage {
  /** The processor's name, as far as it is known. */
  readonly machine: string;
  readonly sections: readonly string[];
}

/** @returns undefined when the file is not a PE image */
export function parsePe(source: ByteSource): PeImage | undefined {
  const head = readView(source, 0, Math.min(source.size, PE_HEAD_SIZE));
  const has = (end: number): boolean => end <= head.byteLength;
  if (!has(PE_OFFSET + 4) || head.getUint16(0, true) !== MZ_MAGIC) return undefined;
  const pe = head.getUint32(PE_OFFSET, true);
  if (!has(pe + SECTION_TABLE) || head.getUint32(pe, true) !== PE_MAGIC) return undefined;
  const machine = head.getUint16(pe + MACHINE, true);
  const table = pe + SECTION_TABLE + head.getUint16(pe + SIZE_OF_OPTIONAL_HEADER, true);
  const count = head.getUint16(pe + NUMBER_OF_SECTIONS, true);
  const sections: string[] = [];
  for (let index = 0; index < count; index++) {
    const at = table + index * SECTION_HEADER_SIZE;
    if (!has(at + SECTION_HEADER_SIZE)) break;
    const bytes = new Uint8Array(head.buffer, head.byteOffset + at, SECTION_NAME_SIZE);
    sections.push(Buffer.from(bytes).toString('latin1').replace(/\0.*$/s, ''));
  }
  return { machine: MACHINES[machine] ?? `number ${machine}`, sections };
}

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
 * Identifies a file that is neither ELF nor a bzImage.
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

/** Where a bzImage's version string is: `kernel_version` counts from here (boot.rst). */
const VERSION_BASE = 0x200;

/** Whether a file is a Linux kernel: a bzImage with its version, or a vmlinux. False for what cannot be read. */
export function isLinux(path: string): boolean {
  try {
    using file = new FileSource(path, 'kernel');
    if (recognize(file) === 'elf') return parseElf(file).isLinux;
    const { offset } = abi.setup_header.kernel_version;
    const at = readView(file, abi.SETUP_HEADER_OFFSET + offset, 2).getUint16(0, true);
    const text = readView(file, at + VERSION_BASE, 'X.YY'.length);
    const version = Buffer.from(text.buffer, text.byteOffset, text.byteLength).toString('latin1');
    return recognize(file) === 'bzimage' && at > 0 && /^\d+\.\d/.test(version);
  } catch {
    return false;
  }
}
