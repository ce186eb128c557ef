/** The PVH boot protocol (Xen docs/misc/pvh.pandoc): start info in guest memory, 32-bit entry without paging. */

import * as abi from '../abi/linux-boot.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import {
  BOOT_PARAMS_GPA,
  COMMAND_LINE_GPA,
  type CpuEntryState,
  flatProtectedMode,
  HVM_MEMMAP_GPA,
  HVM_MODLIST_GPA,
  HVM_START_INFO_GPA,
  type MemoryMapEntry,
} from './boot-layout.ts';
import { type ByteSource, readView } from './byte-source.ts';

/** What the protocol passes on to the kernel. */
export interface PvhParameters {
  readonly memoryMap: readonly MemoryMapEntry[];
  readonly initrd: { readonly gpa: number; readonly size: number } | undefined;
  readonly rsdpGpa: number;
}

/**
 * Writes struct hvm_start_info and what it points to. The command line is in place already.
 * @param entry the address in XEN_ELFNOTE_PHYS32_ENTRY
 */
export function enterPvh(
  memory: GuestMemory,
  entry: number,
  { memoryMap, initrd, rsdpGpa }: PvhParameters,
): CpuEntryState {
  // Guest physical addresses below 3 GiB are RAM offsets.
  memory.bytes(HVM_START_INFO_GPA, BOOT_PARAMS_GPA - HVM_START_INFO_GPA).fill(0);
  const info = HVM_START_INFO_GPA;
  memory.writeU32(info + abi.hvm_start_info.magic.offset, abi.XEN_HVM_START_MAGIC_VALUE);
  memory.writeU32(info + abi.hvm_start_info.version.offset, 1);
  memory.writeU64(info + abi.hvm_start_info.cmdline_paddr.offset, COMMAND_LINE_GPA);
  memory.writeU64(info + abi.hvm_start_info.rsdp_paddr.offset, rsdpGpa);
  memory.writeU64(info + abi.hvm_start_info.memmap_paddr.offset, HVM_MEMMAP_GPA);
  memory.writeU32(info + abi.hvm_start_info.memmap_entries.offset, memoryMap.length);
  if (initrd !== undefined) {
    memory.writeU32(info + abi.hvm_start_info.nr_modules.offset, 1);
    memory.writeU64(info + abi.hvm_start_info.modlist_paddr.offset, HVM_MODLIST_GPA);
    memory.writeU64(HVM_MODLIST_GPA + abi.hvm_modlist_entry.paddr.offset, initrd.gpa);
    memory.writeU64(HVM_MODLIST_GPA + abi.hvm_modlist_entry.size_.offset, initrd.size);
  }
  memoryMap.forEach(({ gpa, size, type }, index) => {
    const at = HVM_MEMMAP_GPA + index * abi.hvm_memmap_table_entry.size;
    memory.writeU64(at + abi.hvm_memmap_table_entry.addr.offset, gpa);
    memory.writeU64(at + abi.hvm_memmap_table_entry.size_.offset, size);
    memory.writeU32(at + abi.hvm_memmap_table_entry.type.offset, type);
  });

  return flatProtectedMode(
    memory,
    { cs: 0x08, ds: 0x10, tr: 0x18 },
    { rip: entry, rbx: HVM_START_INFO_GPA },
  );
}

// Multiboot headers (Multiboot Specification 0.6.96 §3.1, Multiboot2 Specification 2.0 §3.1), to recognize them.

const MULTIBOOT_HEADER_MAGIC = 0x1bad_b002;
const MULTIBOOT_SEARCH = 8192;
const MULTIBOOT2_HEADER_MAGIC = 0xe852_50d6;
const MULTIBOOT2_SEARCH = 32768;

/** True when the file has a header of either version: magic, two or three more words, sum 0. */
export function isMultiboot(source: ByteSource): boolean {
  const head = readView(source, 0, Math.min(source.size, MULTIBOOT2_SEARCH));
  const word = (at: number): number => head.getUint32(at, true);
  for (let at = 0; at + 16 <= head.byteLength; at += 4) {
    const magic = word(at);
    if (magic === MULTIBOOT_HEADER_MAGIC && at + 12 <= MULTIBOOT_SEARCH) {
      if ((magic + word(at + 4) + word(at + 8)) % 2 ** 32 === 0) return true;
    } else if (magic === MULTIBOOT2_HEADER_MAGIC && at % 8 === 0) {
      if ((magic + word(at + 4) + word(at + 8) + word(at + 12)) % 2 ** 32 === 0) return true;
    }
  }
  return false;
}

/** A kernel for boot loaders of another protocol. */
export const MULTIBOOT = {
  what: 'a multiboot kernel without a PVH entry point',
  remedy: 'use a Linux kernel, or build this one with the note XEN_ELFNOTE_PHYS32_ENTRY',
};
