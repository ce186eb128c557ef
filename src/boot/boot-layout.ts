/** Where the loader puts its structures in the guest's first MiB, and the memory map that it reports. */
import { E820_TYPE_RAM, E820_TYPE_RESERVED } from '../abi/linux-boot.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import {
  KVM_IDENTITY_MAP_ADDRESS,
  KVM_TSS_ADDRESS,
  PCI_ECAM_BASE,
  PCI_ECAM_SIZE,
} from '../platform/layout.ts';

export const GDT_GPA = 0x500;
export const HVM_START_INFO_GPA = 0x6000;
export const HVM_MODLIST_GPA = 0x6100;
export const HVM_MEMMAP_GPA = 0x6200;
export const BOOT_PARAMS_GPA = 0x7000;
/** PML4, one page of pointers, and four page directories. */
export const PAGE_TABLES_GPA = 0x9000;
export const COMMAND_LINE_GPA = 0x2_0000;
/** Bytes from there, with the terminating NUL. */
export const COMMAND_LINE_ROOM = 0x1_0000;
/** Where PCs keep the extended BIOS data area: conventional memory ends below. */
export const EBDA_GPA = 0x9_fc00;
/** ACPI 6.5 §5.2.5.1: the RSDP lies on a 16-byte boundary from here ... */
export const ACPI_GPA = 0xe_0000;
/** ... to the end of the first MiB; all ACPI tables lie below this. */
export const ACPI_LIMIT = 0xf_0000;
/** SMBIOS 3.0 §5.2.2: the entry point lies on a 16-byte boundary from here on; the reset vector ends it. */
export const SMBIOS_GPA = 0xf_0000;
export const SMBIOS_LIMIT = 0xf_fff0;
/** Kernels are loaded from here on. */
export const HIGH_MEMORY_GPA = 0x10_0000;

/** One range of the memory map. */
export interface MemoryMapEntry {
  readonly gpa: number;
  readonly size: number;
  /** E820_TYPE_*. */
  readonly type: number;
}

/** The machine's memory map, lowest first. */
export function memoryMap(memory: GuestMemory): MemoryMapEntry[] {
  const map: MemoryMapEntry[] = [
    { gpa: 0, size: EBDA_GPA, type: E820_TYPE_RAM },
    { gpa: EBDA_GPA, size: HIGH_MEMORY_GPA - EBDA_GPA, type: E820_TYPE_RESERVED },
  ];
  const reserved: MemoryMapEntry[] = [
    { gpa: PCI_ECAM_BASE, size: PCI_ECAM_SIZE, type: E820_TYPE_RESERVED },
    {
      gpa: KVM_IDENTITY_MAP_ADDRESS,
      size: KVM_TSS_ADDRESS + 3 * 4096 - KVM_IDENTITY_MAP_ADDRESS,
      type: E820_TYPE_RESERVED,
    },
  ];
  for (const region of memory.regions) {
    if (region.gpa === 0) {
      const size = region.size - HIGH_MEMORY_GPA;
      map.push({ gpa: HIGH_MEMORY_GPA, size, type: E820_TYPE_RAM }, ...reserved);
    } else {
      map.push({ gpa: region.gpa, size: region.size, type: E820_TYPE_RAM });
    }
  }
  return map;
}

/** The first address above the RAM that lies below the hole. */
export function lowRamEnd(memory: GuestMemory): number {
  const region = memory.regions[0];
  return region === undefined ? 0 : region.gpa + region.size;
}
