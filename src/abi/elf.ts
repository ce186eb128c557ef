/** ELF's headers (System V gABI; elf.h), in both classes. */
import { struct } from './struct.ts';

/** The first four bytes, as a little-endian word. */
export const ELF_MAGIC = 0x464c457f;
/** Bytes of e_ident, and what lies in them. */
export const EI_CLASS = 4;
export const EI_DATA = 5;
export const ELFCLASS32 = 1;
export const ELFCLASS64 = 2;
export const ELFDATA2LSB = 1;
export const ELFDATA2MSB = 2;

export const ET_REL = 1;
export const ET_EXEC = 2;
export const ET_DYN = 3;
export const ET_CORE = 4;

export const EM_386 = 3;
export const EM_X86_64 = 62;

export const PT_LOAD = 1;
export const PT_INTERP = 3;
export const PT_NOTE = 4;
export const PT_TLS = 7;

export const Elf32_Ehdr = struct({
  e_ident: [1, 16],
  e_type: 2,
  e_machine: 2,
  e_version: 4,
  e_entry: 4,
  e_phoff: 4,
  e_shoff: 4,
  e_flags: 4,
  e_ehsize: 2,
  e_phentsize: 2,
  e_phnum: 2,
  e_shentsize: 2,
  e_shnum: 2,
  e_shstrndx: 2,
});

export const Elf64_Ehdr = struct({
  e_ident: [1, 16],
  e_type: 2,
  e_machine: 2,
  e_version: 4,
  e_entry: 8,
  e_phoff: 8,
  e_shoff: 8,
  e_flags: 4,
  e_ehsize: 2,
  e_phentsize: 2,
  e_phnum: 2,
  e_shentsize: 2,
  e_shnum: 2,
  e_shstrndx: 2,
});

export const Elf32_Phdr = struct({
  p_type: 4,
  p_offset: 4,
  p_vaddr: 4,
  p_paddr: 4,
  p_filesz: 4,
  p_memsz: 4,
  p_flags: 4,
  p_align: 4,
});

export const Elf64_Phdr = struct({
  p_type: 4,
  p_flags: 4,
  p_offset: 8,
  p_vaddr: 8,
  p_paddr: 8,
  p_filesz: 8,
  p_memsz: 8,
  p_align: 8,
});

/** Note header; name and descriptor follow, each padded. */
export const Elf_Nhdr = struct({ n_namesz: 4, n_descsz: 4, n_type: 4 });
