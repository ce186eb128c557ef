/** ELF64 kernels: loadable segments, entry point, and the PVH entry in the Xen note. */
import { XEN_ELFNOTE_PHYS32_ENTRY } from '../abi/linux-boot.ts';
import { UsageError } from '../host/errors.ts';
import { type ByteSource, readView, truncated } from './byte-source.ts';

export const ELF_MAGIC = 0x464c457f;
const ELFCLASS64 = 2;
const ELFDATA2LSB = 1;
const ET_EXEC = 2;
const ET_DYN = 3;
const EM_X86_64 = 62;
const EHDR_SIZE = 64;
const PHDR_SIZE = 56;
const PT_LOAD = 1;
const PT_NOTE = 4;
/** Kernels have about five; the bound keeps a hostile file from costing time. */
const MOST_SEGMENTS = 64;
const LONGEST_NOTES = 0x1_0000;

/** A PT_LOAD segment, checked: `offset + filesz` lies in the file and `filesz` is at most `memsz`. */
export interface ElfSegment {
  readonly offset: number;
  /** Guest physical address. */
  readonly paddr: number;
  readonly filesz: number;
  readonly memsz: number;
}

/** What a loader has to know of an ELF kernel. */
export interface ElfImage {
  /** e_entry: for Linux the physical address of startup_64. */
  readonly entry: number;
  /** The 32-bit PVH entry point, where the kernel has one. */
  readonly pvhEntry: number | undefined;
  readonly segments: readonly ElfSegment[];
  /** Physical range that the segments span. */
  readonly start: number;
  readonly end: number;
}

/**
 * Reads and checks an ELF kernel's headers.
 * @throws UsageError E_NOT_A_KERNEL or E_TRUNCATED; no file content leads to any other error
 */
export function parseElf(source: ByteSource): ElfImage {
  const bad = (why: string): UsageError =>
    new UsageError(
      'E_NOT_A_KERNEL',
      `${source.name} is not a bootable ELF kernel: ${why}; name an x86-64 bzImage or vmlinux`,
    );
  const u64 = (view: DataView, at: number, what: string): number => {
    const value = view.getBigUint64(at, true);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw bad(`${what} is out of range`);
    return Number(value);
  };

  const header = readView(source, 0, EHDR_SIZE);
  if (header.getUint32(0, true) !== ELF_MAGIC) throw bad('it has no ELF magic');
  if (header.getUint8(4) !== ELFCLASS64 || header.getUint8(5) !== ELFDATA2LSB) {
    throw bad('it is not 64-bit little-endian');
  }
  const type = header.getUint16(16, true);
  if (type !== ET_EXEC && type !== ET_DYN) throw bad('it is not an executable');
  if (header.getUint16(18, true) !== EM_X86_64) throw bad('it is for another processor');
  const entry = u64(header, 24, 'e_entry');
  const phoff = u64(header, 32, 'e_phoff');
  const phnum = header.getUint16(56, true);
  if (header.getUint16(54, true) !== PHDR_SIZE) throw bad('e_phentsize is not 56');
  if (phnum === 0 || phnum > MOST_SEGMENTS) throw bad(`it has ${phnum} program headers`);

  const segments: ElfSegment[] = [];
  let pvhEntry: number | undefined;
  const table = readView(source, phoff, phnum * PHDR_SIZE);
  for (let index = 0; index < phnum; index++) {
    const at = index * PHDR_SIZE;
    const kind = table.getUint32(at, true);
    if (kind !== PT_LOAD && kind !== PT_NOTE) continue;
    const offset = u64(table, at + 8, 'p_offset');
    const paddr = u64(table, at + 24, 'p_paddr');
    const filesz = u64(table, at + 32, 'p_filesz');
    const memsz = u64(table, at + 40, 'p_memsz');
    if (offset + filesz > source.size) throw truncated(source.name, offset + filesz, source.size);
    if (kind === PT_NOTE) {
      const alignment = u64(table, at + 48, 'p_align') === 8 ? 8 : 4;
      pvhEntry ??= findPvhEntry(
        readView(source, offset, Math.min(filesz, LONGEST_NOTES)),
        alignment,
      );
    } else if (memsz > 0) {
      if (filesz > memsz) throw bad('a segment has more bytes than memory');
      segments.push({ offset, paddr, filesz, memsz });
    }
  }
  if (segments.length === 0) throw bad('it has nothing to load');

  segments.sort((a, b) => a.paddr - b.paddr);
  let end = 0;
  for (const { paddr, memsz } of segments) {
    if (paddr < end) throw bad('its segments overlap');
    end = paddr + memsz;
  }
  return { entry, pvhEntry, segments, start: segments[0]?.paddr ?? 0, end };
}

/** True when `gpa` lies in one of the kernel's segments. */
export function isInSegments(image: ElfImage, gpa: number): boolean {
  return image.segments.some(({ paddr, memsz }) => gpa >= paddr && gpa < paddr + memsz);
}

/** Walks a note segment; whatever does not fit ends the walk. */
function findPvhEntry(notes: DataView, alignment: number): number | undefined {
  const align = (length: number): number => Math.ceil(length / alignment) * alignment;
  let at = 0;
  while (at + 12 <= notes.byteLength) {
    const namesz = notes.getUint32(at, true);
    const descsz = notes.getUint32(at + 4, true);
    const type = notes.getUint32(at + 8, true);
    const desc = at + 12 + align(namesz);
    if (desc + descsz > notes.byteLength) return undefined;
    const isXen = namesz === 4 && notes.getUint32(at + 12, true) === 0x006e6558;
    // The entry point is 4 bytes, or 8 as assemblers emit a pointer; it is a 32-bit address.
    if (isXen && type === XEN_ELFNOTE_PHYS32_ENTRY && descsz >= 4) {
      return notes.getUint32(desc, true);
    }
    at = desc + align(descsz);
  }
  return undefined;
}
