/** Makes small kernel images: an ELF vmlinux, and a bzImage around a compressed one. */
import { gzipSync } from 'node:zlib';
import {
  ELF_MAGIC,
  ELFCLASS32,
  ELFCLASS64,
  ELFDATA2LSB,
  Elf32_Ehdr,
  Elf32_Phdr,
  Elf64_Ehdr,
  Elf64_Phdr,
  EM_386,
  EM_X86_64,
  ET_EXEC,
  PT_LOAD,
  PT_NOTE,
} from '../../src/abi/elf.ts';
import {
  BOOT_FLAG_MAGIC,
  LOADED_HIGH,
  SECTOR_SIZE,
  SETUP_HEADER_MAGIC,
  SETUP_HEADER_OFFSET,
  setup_header,
  XLF_KERNEL_64,
} from '../../src/abi/linux-boot.ts';
import type { Field } from '../../src/abi/struct.ts';
import { writeField } from '../../src/abi/struct-view.ts';

/** One segment to put into an ELF file. */
export interface SegmentPlan {
  readonly paddr: number;
  readonly bytes: Uint8Array;
  readonly memsz?: number;
}

/** What an ELF kernel is made of; the default has one segment at 16 MiB and a PVH note. */
export interface ElfPlan {
  readonly segments?: readonly SegmentPlan[];
  readonly entry?: number;
  /** PVH entry point; null: no note. */
  readonly pvhEntry?: number | null;
  /** Default 64. */
  readonly bits?: 32 | 64;
  /** Bytes of the PVH note's descriptor. Default: those of a pointer. */
  readonly descsz?: number;
  /** How the notes are laid out. Default 4. */
  readonly noteAlignment?: 4 | 8;
  /** p_align of the notes' segment. Default: as they are laid out. */
  readonly noteAlign?: number;
}

/** Where the default kernel is linked. */
export const KERNEL_GPA = 0x100_0000;

/** Text that compresses, with nothing that repeats at small distances. */
export function kernelCode(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, at) => (at % 251) ^ ((at >> 8) & 0x3f));
}

/** An ELF kernel for x86, of either class. */
export function elfKernel(plan: ElfPlan = {}): Uint8Array {
  const { bits = 64, noteAlignment = 4, noteAlign = noteAlignment } = plan;
  const ehdr = bits === 64 ? Elf64_Ehdr : Elf32_Ehdr;
  const phdr = bits === 64 ? Elf64_Phdr : Elf32_Phdr;
  const segments = plan.segments ?? [
    { paddr: KERNEL_GPA, bytes: kernelCode(100_000), memsz: 150_000 },
  ];
  const pvhEntry = plan.pvhEntry === undefined ? KERNEL_GPA + 0x30 : plan.pvhEntry;
  const descsz = plan.descsz ?? bits / 8;
  const note = pvhEntry === null ? undefined : xenNotes(pvhEntry, descsz, noteAlignment);
  const count = segments.length + (note === undefined ? 0 : 1);
  const contents = [...segments.map(({ bytes }) => bytes), ...(note === undefined ? [] : [note])];
  let offset = ehdr.size + count * phdr.size;
  const file = new Uint8Array(offset + contents.reduce((sum, { length }) => sum + length, 0));
  const view = new DataView(file.buffer);
  view.setUint32(0, ELF_MAGIC, true);
  file.set([bits === 64 ? ELFCLASS64 : ELFCLASS32, ELFDATA2LSB, 1], 4);
  writeField(view, ehdr.e_type, ET_EXEC);
  writeField(view, ehdr.e_machine, bits === 64 ? EM_X86_64 : EM_386);
  writeField(view, ehdr.e_entry, plan.entry ?? KERNEL_GPA);
  writeField(view, ehdr.e_phoff, ehdr.size);
  writeField(view, ehdr.e_ehsize, ehdr.size);
  writeField(view, ehdr.e_phentsize, phdr.size);
  writeField(view, ehdr.e_phnum, count);
  contents.forEach((bytes, index) => {
    const at = ehdr.size + index * phdr.size;
    const segment = segments[index];
    writeField(view, phdr.p_type, segment === undefined ? PT_NOTE : PT_LOAD, at);
    writeField(view, phdr.p_offset, offset, at);
    writeField(view, phdr.p_paddr, segment?.paddr ?? 0, at);
    writeField(view, phdr.p_filesz, bytes.length, at);
    // GRUB's note takes no memory.
    writeField(view, phdr.p_memsz, segment === undefined ? 0 : (segment.memsz ?? bytes.length), at);
    writeField(view, phdr.p_align, noteAlign, at);
    file.set(bytes, offset);
    offset += bytes.length;
  });
  return file;
}

/** Two notes: GNU's, whose contents need padding, and Xen's PHYS32_ENTRY. */
function xenNotes(pvhEntry: number, descsz: number, alignment: number): Uint8Array {
  const entry = new Uint8Array(8);
  new DataView(entry.buffer).setBigUint64(0, BigInt(pvhEntry), true);
  return Uint8Array.from([
    ...note('GNU\0', 1, new Uint8Array(2), alignment),
    ...note('Xen\0', 18, entry.subarray(0, descsz), alignment),
  ]);
}

function note(name: string, type: number, desc: Uint8Array, alignment: number): number[] {
  const header = Uint32Array.of(name.length, desc.length, type);
  const bytes = [...new Uint8Array(header.buffer), ...new TextEncoder().encode(name)];
  const pad = (): void => {
    while (bytes.length % alignment !== 0) bytes.push(0);
  };
  pad();
  bytes.push(...desc);
  pad();
  return bytes;
}

/** Setup header fields to be set to something else, by the header's names. */
export type HeaderValues = Partial<Record<Exclude<keyof typeof setup_header, 'size'>, number>>;

const SETUP_SECTS = 3;
const PAYLOAD_OFFSET = 0x2cc;

/**
 * A bzImage.
 * @param payload the compressed kernel, with its trailing length; default: `elfKernel()`, gzip
 * @param values setup header fields that differ from a sound kernel's
 */
export function bzImage(
  payload: Uint8Array = gzipSync(elfKernel()),
  values: HeaderValues = {},
): Uint8Array {
  const codeOffset = (SETUP_SECTS + 1) * SECTOR_SIZE;
  const codeSize = Math.ceil((PAYLOAD_OFFSET + payload.length) / 16) * 16;
  const file = new Uint8Array(codeOffset + codeSize);
  const view = new DataView(file.buffer);
  const all: HeaderValues = {
    setup_sects: SETUP_SECTS,
    syssize: codeSize / 16,
    boot_flag: BOOT_FLAG_MAGIC,
    header: SETUP_HEADER_MAGIC,
    version: 0x20f,
    loadflags: LOADED_HIGH,
    initrd_addr_max: 0x7fff_ffff,
    kernel_alignment: 0x20_0000,
    relocatable_kernel: 1,
    xloadflags: XLF_KERNEL_64,
    cmdline_size: 2047,
    payload_offset: PAYLOAD_OFFSET,
    payload_length: payload.length,
    pref_address: KERNEL_GPA,
    init_size: 0x40_0000,
    ...values,
  };
  for (const [name, value] of Object.entries(all)) {
    const { offset, length } = setup_header[name as keyof HeaderValues] as Field;
    const at = SETUP_HEADER_OFFSET + offset;
    if (length === 8) view.setBigUint64(at, BigInt(value), true);
    else if (length === 4) view.setUint32(at, value, true);
    else if (length === 2) view.setUint16(at, value, true);
    else view.setUint8(at, value);
  }
  // The short jump over the header: its second byte counts from 0x202.
  file[0x200] = 0xeb;
  file[0x201] = SETUP_HEADER_OFFSET + setup_header.size - 0x202;
  file.set(payload, codeOffset + PAYLOAD_OFFSET);
  return file;
}

/** Appends the little-endian length of the unpacked kernel, as the kernel's build does. */
export function withLength(compressed: Uint8Array, length: number): Uint8Array {
  const bytes = new Uint8Array(compressed.length + 4);
  bytes.set(compressed);
  new DataView(bytes.buffer).setUint32(compressed.length, length, true);
  return bytes;
}
