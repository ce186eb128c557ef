/** Makes small kernel images: an ELF vmlinux, and a bzImage around a compressed one. */
import { gzipSync } from 'node:zlib';
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

const EHDR_SIZE = 64;
const PHDR_SIZE = 56;
const PT_LOAD = 1;
const PT_NOTE = 4;

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
}

/** Where the default kernel is linked. */
export const KERNEL_GPA = 0x100_0000;

/** Text that compresses, with nothing that repeats at small distances. */
export function kernelCode(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, at) => (at % 251) ^ ((at >> 8) & 0x3f));
}

/** An ELF64 kernel for x86-64. */
export function elfKernel(plan: ElfPlan = {}): Uint8Array {
  const segments = plan.segments ?? [
    { paddr: KERNEL_GPA, bytes: kernelCode(100_000), memsz: 150_000 },
  ];
  const pvhEntry = plan.pvhEntry === undefined ? KERNEL_GPA + 0x30 : plan.pvhEntry;
  const note = pvhEntry === null ? undefined : xenNotes(pvhEntry);
  const count = segments.length + (note === undefined ? 0 : 1);
  const contents = [...segments.map(({ bytes }) => bytes), ...(note === undefined ? [] : [note])];
  let offset = EHDR_SIZE + count * PHDR_SIZE;
  const file = new Uint8Array(offset + contents.reduce((sum, { length }) => sum + length, 0));
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, 62, true);
  view.setBigUint64(24, BigInt(plan.entry ?? KERNEL_GPA), true);
  view.setBigUint64(32, BigInt(EHDR_SIZE), true);
  view.setUint16(52, EHDR_SIZE, true);
  view.setUint16(54, PHDR_SIZE, true);
  view.setUint16(56, count, true);
  contents.forEach((bytes, index) => {
    const at = EHDR_SIZE + index * PHDR_SIZE;
    const segment = segments[index];
    view.setUint32(at, segment === undefined ? PT_NOTE : PT_LOAD, true);
    view.setBigUint64(at + 8, BigInt(offset), true);
    view.setBigUint64(at + 24, BigInt(segment?.paddr ?? 0), true);
    view.setBigUint64(at + 32, BigInt(bytes.length), true);
    view.setBigUint64(at + 40, BigInt(segment?.memsz ?? bytes.length), true);
    view.setBigUint64(at + 48, 4n, true);
    file.set(bytes, offset);
    offset += bytes.length;
  });
  return file;
}

/** Two notes: GNU's, whose name and contents need padding, and Xen's PHYS32_ENTRY. */
function xenNotes(pvhEntry: number): Uint8Array {
  const notes = new Uint8Array(20 + 24);
  const view = new DataView(notes.buffer);
  const text = new TextEncoder();
  view.setUint32(0, 4, true);
  view.setUint32(4, 2, true);
  view.setUint32(8, 1, true);
  text.encodeInto('GNU\0', notes.subarray(12));
  view.setUint32(20, 4, true);
  view.setUint32(24, 8, true);
  view.setUint32(28, 18, true);
  text.encodeInto('Xen\0', notes.subarray(32));
  view.setUint32(36, pvhEntry, true);
  return notes;
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
