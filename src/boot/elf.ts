/** ELF kernels of both classes: loadable segments, entry point, and the PVH entry in the Xen note. */
import * as abi from '../abi/elf.ts';
import {
  LINUX_ELFNOTE_NAME,
  XEN_ELFNOTE_NAME,
  XEN_ELFNOTE_PHYS32_ENTRY,
} from '../abi/linux-boot.ts';
import { type Field, readField } from '../abi/struct.ts';
import { UsageError } from '../host/errors.ts';
import { type ByteSource, readView, truncated } from './byte-source.ts';
import { isMultiboot, MULTIBOOT } from './pvh.ts';

/** Kernels have about five; the bound keeps a hostile file from costing time. */
const MOST_SEGMENTS = 64;
const LONGEST_NOTES = 0x1_0000;

const CLASSES = {
  [abi.ELFCLASS32]: { bits: 32, ehdr: abi.Elf32_Ehdr, phdr: abi.Elf32_Phdr, machine: abi.EM_386 },
  [abi.ELFCLASS64]: {
    bits: 64,
    ehdr: abi.Elf64_Ehdr,
    phdr: abi.Elf64_Phdr,
    machine: abi.EM_X86_64,
  },
} as const;

/** e_machine of other processors that Linux runs on. */
const OTHER_MACHINES: Readonly<Record<number, string>> = {
  [abi.EM_386]: '32-bit x86',
  8: 'MIPS',
  20: 'PowerPC',
  21: '64-bit PowerPC',
  22: 's390',
  40: 'Arm',
  [abi.EM_X86_64]: 'x86-64',
  183: 'AArch64',
  243: 'RISC-V',
  258: 'LoongArch',
};

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
  /** The file's class, which is that of the code at its entry point. */
  readonly bits: 32 | 64;
  /** e_entry: for Linux the physical address of startup_32 or startup_64. */
  readonly entry: number;
  /** The 32-bit PVH entry point, where the kernel has one. */
  readonly pvhEntry: number | undefined;
  /** It is a Linux kernel, by its notes. */
  readonly isLinux: boolean;
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
      `${source.name} is not a bootable ELF kernel: ${why}`,
      'use a bzImage or vmlinux for x86',
    );
  const number = (view: DataView, field: Field, what: string, base = 0): number => {
    const value = readField(view, field, base);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw bad(`${what} is out of range`);
    return Number(value);
  };

  const { bits, ehdr, phdr } = checkIdentity(source, bad);
  const header = readView(source, 0, ehdr.size);
  const entry = number(header, ehdr.e_entry, 'e_entry');
  const phoff = number(header, ehdr.e_phoff, 'e_phoff');
  const phnum = number(header, ehdr.e_phnum, 'e_phnum');
  const phentsize = number(header, ehdr.e_phentsize, 'e_phentsize');
  if (phentsize !== phdr.size) throw bad(`e_phentsize is not ${phdr.size}`);
  if (phnum === 0 || phnum > MOST_SEGMENTS) throw bad(`it has ${phnum} program headers`);

  const segments: ElfSegment[] = [];
  let pvhEntry: number | undefined;
  let isLinux = false;
  let isProgram = false;
  const table = readView(source, phoff, phnum * phdr.size);
  for (let index = 0; index < phnum; index++) {
    const at = index * phdr.size;
    const kind = number(table, phdr.p_type, 'p_type', at);
    isProgram ||= kind === abi.PT_INTERP || kind === abi.PT_TLS;
    if (kind !== abi.PT_LOAD && kind !== abi.PT_NOTE) continue;
    const offset = number(table, phdr.p_offset, 'p_offset', at);
    const paddr = number(table, phdr.p_paddr, 'p_paddr', at);
    const filesz = number(table, phdr.p_filesz, 'p_filesz', at);
    const memsz = number(table, phdr.p_memsz, 'p_memsz', at);
    if (offset + filesz > source.size) throw truncated(source.name, offset + filesz, source.size);
    if (kind === abi.PT_NOTE) {
      const notes = readView(source, offset, Math.min(filesz, LONGEST_NOTES));
      // Linux aligns its notes to 4 whatever p_align says; other linkers follow p_align.
      if (readField(table, phdr.p_align, at) === 8n) pvhEntry ??= findPvhEntry(notes, 8);
      pvhEntry ??= findPvhEntry(notes, 4);
      isLinux ||= [...notesOf(notes, 4)].some(({ owner }) => owner === LINUX_ELFNOTE_NAME);
    } else if (memsz > 0) {
      if (filesz > memsz) throw bad('a segment has more bytes than memory');
      segments.push({ offset, paddr, filesz, memsz });
    }
  }
  if (pvhEntry === undefined) {
    if (isProgram) throw bad('it is a program for an operating system');
    if (isMultiboot(source)) {
      throw new UsageError(
        'E_NOT_A_KERNEL',
        `${source.name} is ${MULTIBOOT.what}`,
        MULTIBOOT.remedy,
      );
    }
  }
  if (segments.length === 0) throw bad('it has nothing to load');

  segments.sort((a, b) => a.paddr - b.paddr);
  let end = 0;
  for (const { paddr, memsz } of segments) {
    if (paddr < end) throw bad('its segments overlap');
    end = paddr + memsz;
  }
  return { bits, entry, pvhEntry, isLinux, segments, start: segments[0]?.paddr ?? 0, end };
}

/** What kind of ELF file it is: the fields that lie at the same place in all of them. */
function checkIdentity(source: ByteSource, bad: (why: string) => UsageError) {
  const header = readView(source, 0, abi.Elf32_Ehdr.size);
  if (header.getUint32(0, true) !== abi.ELF_MAGIC) throw bad('it has no ELF magic');
  const kind = header.getUint8(abi.EI_CLASS);
  const order = header.getUint8(abi.EI_DATA);
  if (kind !== abi.ELFCLASS32 && kind !== abi.ELFCLASS64) throw bad(`its class is ${kind}`);
  if (order !== abi.ELFDATA2LSB && order !== abi.ELFDATA2MSB)
    throw bad(`its byte order is ${order}`);
  const elfClass = CLASSES[kind];
  const littleEndian = order === abi.ELFDATA2LSB;
  const machine = header.getUint16(abi.Elf32_Ehdr.e_machine.offset, littleEndian);
  if (machine !== elfClass.machine || !littleEndian) {
    const name = OTHER_MACHINES[machine] ?? `number ${machine}`;
    throw bad(`it is ${elfClass.bits}-bit code for the processor ${name}`);
  }
  const type = header.getUint16(abi.Elf32_Ehdr.e_type.offset, true);
  if (type === abi.ET_REL) throw bad('it is an object file, such as a kernel module');
  if (type === abi.ET_CORE) throw bad('it is a core dump');
  if (type !== abi.ET_EXEC && type !== abi.ET_DYN) throw bad('it is not an executable');
  return elfClass;
}

/** True when `gpa` lies in one of the kernel's segments. */
export function isInSegments(image: ElfImage, gpa: number): boolean {
  return image.segments.some(({ paddr, memsz }) => gpa >= paddr && gpa < paddr + memsz);
}

/** A note: its owner's name with the NUL, its type, and where its descriptor is. */
interface Note {
  readonly owner: string;
  readonly type: number;
  readonly desc: number;
  readonly descsz: number;
}

/** Walks a note segment; whatever does not fit ends the walk. */
function* notesOf(notes: DataView, alignment: number): Generator<Note> {
  const align = (length: number): number => Math.ceil(length / alignment) * alignment;
  let at = 0;
  while (at + abi.Elf_Nhdr.size <= notes.byteLength) {
    const namesz = notes.getUint32(at + abi.Elf_Nhdr.n_namesz.offset, true);
    const descsz = notes.getUint32(at + abi.Elf_Nhdr.n_descsz.offset, true);
    const type = notes.getUint32(at + abi.Elf_Nhdr.n_type.offset, true);
    const name = at + abi.Elf_Nhdr.size;
    const desc = align(name + namesz);
    if (desc + descsz > notes.byteLength) return;
    const bytes = new Uint8Array(notes.buffer, notes.byteOffset + name, Math.min(namesz, 8));
    yield { owner: String.fromCharCode(...bytes), type, desc, descsz };
    at = align(desc + descsz);
  }
}

function findPvhEntry(notes: DataView, alignment: number): number | undefined {
  for (const { owner, type, desc, descsz } of notesOf(notes, alignment)) {
    if (owner !== XEN_ELFNOTE_NAME || type !== XEN_ELFNOTE_PHYS32_ENTRY) continue;
    // 4 bytes, or 8 as assemblers of 64-bit code emit a pointer.
    if (descsz === 4) return notes.getUint32(desc, true);
    if (descsz === 8) return Number(notes.getBigUint64(desc, true));
  }
  return undefined;
}
