/**
 * Where the loader puts its structures in the guest's first MiB, the memory map that it reports, and
 * the registers that a boot protocol wants the first vCPU to start with, as plain data.
 */

import { E820_TYPE_RAM, E820_TYPE_RESERVED } from '../abi/linux-boot.ts';
import type { EntryState } from '../kvm/entry.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import {
  KVM_IDENTITY_MAP_ADDRESS,
  KVM_TSS_ADDRESS,
  PCI_ECAM_BASE,
  PCI_ECAM_SIZE,
  RESET_PORT,
  RESET_VALUE,
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
/** ACPI 6.5 §5.2.10: the FACS lies on a 64-byte boundary; always here, where a guest leaves its waking vector. */
export const FACS_GPA = ACPI_GPA + 0x40;
/** The generation ID, 16 bytes on an 8-byte boundary. */
export const GENERATION_ID_GPA = ACPI_GPA + 0x80;
export const ACPI_TABLES_GPA = ACPI_GPA + 0xc0;
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

/** One segment register, with the names and units of struct kvm_segment. */
export interface SegmentState {
  readonly selector: number;
  readonly base: number;
  /** In bytes, regardless of `g`. */
  readonly limit: number;
  readonly type: number;
  readonly present: 0 | 1;
  readonly dpl: number;
  readonly db: 0 | 1;
  /** 1 for code and data, 0 for system segments. */
  readonly s: 0 | 1;
  readonly l: 0 | 1;
  readonly g: 0 | 1;
}

/**
 * All that differs from a vCPU's state at reset. Registers that are not named are 0, rflags is
 * 2 (interrupts off), the IDT is empty.
 */
export interface CpuEntryState extends EntryState {
  readonly mode: 'protected32' | 'long64';
  readonly cs: SegmentState;
  readonly ds: SegmentState;
  readonly tr: SegmentState;
}

/**
 * F000:FFF0, where the processor and kernels that reboot "by the BIOS" go in real mode. The code here,
 * a write to the reset register, is the only firmware in the guest.
 */
export const RESET_VECTOR_GPA = 0xf_fff0;
/** To the end of the first MiB. */
const RESET_VECTOR_LENGTH = 16;

/**
 * Writes the reset vector's code. Linux needs it: on a hardware-reduced machine it asks EFI for
 * a reset before ACPI (reboot_init), and where there is no EFI it jumps to the reset vector.
 */
export function writeResetVector(memory: GuestMemory): void {
  const code = [
    [0xba, RESET_PORT & 0xff, RESET_PORT >> 8], // mov $RESET_PORT, %dx
    [0xb0, RESET_VALUE], // mov $RESET_VALUE, %al
    [0xee], // out %al, (%dx)
    [0xf4], // 1: hlt
    [0xeb, 0xfd], // jmp 1b
  ].flat();
  // Guest physical addresses below 3 GiB are RAM offsets.
  memory.bytes(RESET_VECTOR_GPA, RESET_VECTOR_LENGTH).fill(0).set(code);
}

// Flat segments, and the GDT in guest memory that describes them (Intel SDM vol. 3 §3.4.5).

const CR0_PE = 1;
const CR0_ET = 1 << 4;
const CODE_EXECUTE_READ_ACCESSED = 0xb;
const DATA_READ_WRITE_ACCESSED = 0x3;
const TSS_BUSY = 0xb;

/** 4 GiB of code, 32-bit or 64-bit. */
export function codeSegment(selector: number, bits: 32 | 64): SegmentState {
  const l = bits === 64 ? 1 : 0;
  const db = bits === 64 ? 0 : 1;
  return flat(selector, CODE_EXECUTE_READ_ACCESSED, db, l);
}

/** 4 GiB of writable data. */
export function dataSegment(selector: number): SegmentState {
  return flat(selector, DATA_READ_WRITE_ACCESSED, 1, 0);
}

/** The smallest TSS, at address 0: the kernel loads its own before it takes an interrupt. */
export function taskStateSegment(selector: number): SegmentState {
  return {
    selector,
    base: 0,
    limit: 0x67,
    type: TSS_BUSY,
    present: 1,
    dpl: 0,
    db: 0,
    s: 0,
    l: 0,
    g: 0,
  };
}

function flat(selector: number, type: number, db: 0 | 1, l: 0 | 1): SegmentState {
  return { selector, base: 0, limit: 0xffff_ffff, type, present: 1, dpl: 0, db, s: 1, l, g: 1 };
}

/**
 * Writes the GDT, every descriptor at its segment's selector, all others null.
 * @returns what goes into GDTR
 */
export function writeGdt(
  memory: GuestMemory,
  segments: readonly SegmentState[],
): { base: number; limit: number } {
  const highest = Math.max(...segments.map(({ selector }) => selector));
  // One entry more: in long mode a system descriptor takes two.
  const size = highest + 16;
  const gdt = memory.bytes(memory.offset(GDT_GPA, size), size).fill(0);
  const view = new DataView(gdt.buffer, gdt.byteOffset, gdt.byteLength);
  for (const { selector, base, limit, type, present, dpl, db, s, l, g } of segments) {
    const units = g === 1 ? Math.floor(limit / 4096) : limit;
    view.setUint32(selector, ((base & 0xffff) << 16) | (units & 0xffff), true);
    view.setUint32(
      selector + 4,
      (base & 0xff00_0000) |
        (g << 23) |
        (db << 22) |
        (l << 21) |
        (units & 0xf_0000) |
        (present << 15) |
        (dpl << 13) |
        (s << 12) |
        (type << 8) |
        ((base >>> 16) & 0xff),
      true,
    );
  }
  return { base: GDT_GPA, limit: size - 1 };
}

/** Protected mode without paging, as the 32-bit entries of Linux and PVH want it; writes the GDT. */
export function flatProtectedMode(
  memory: GuestMemory,
  selectors: Readonly<{ cs: number; ds: number; tr: number }>,
  registers: Readonly<{ rip: number; rbx?: number; rsi?: number }>,
): CpuEntryState {
  const cs = codeSegment(selectors.cs, 32);
  const ds = dataSegment(selectors.ds);
  const tr = taskStateSegment(selectors.tr);
  return {
    mode: 'protected32',
    rsp: 0,
    rbx: 0,
    rsi: 0,
    ...registers,
    cr0: CR0_PE | CR0_ET,
    cr3: 0,
    cr4: 0,
    efer: 0,
    gdt: writeGdt(memory, [cs, ds, tr]),
    cs,
    ds,
    tr,
  };
}
