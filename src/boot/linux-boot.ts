/** Linux's own boot protocols (boot.rst): the zero page, struct boot_params (zero-page.rst), and entry in 32 or 64 bits. */

import * as abi from '../abi/linux-boot.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import {
  BOOT_PARAMS_GPA,
  COMMAND_LINE_GPA,
  type CpuEntryState,
  codeSegment,
  dataSegment,
  flatProtectedMode,
  type MemoryMapEntry,
  PAGE_TABLES_GPA,
  taskStateSegment,
  writeGdt,
} from './boot-layout.ts';

/** What the protocols pass on to the kernel. */
export interface ZeroPageParameters {
  readonly memoryMap: readonly MemoryMapEntry[];
  readonly initrd: { readonly gpa: number; readonly size: number } | undefined;
  readonly rsdpGpa: number;
  /** Where the kernel was loaded. */
  readonly kernelGpa: number;
  /** The bzImage's setup header; undefined for an ELF kernel, which brings none. */
  readonly header: Uint8Array | undefined;
}

/** Writes the zero page. The command line is in place already. */
export function writeZeroPage(
  memory: GuestMemory,
  { memoryMap, initrd, rsdpGpa, kernelGpa, header }: ZeroPageParameters,
): void {
  // Guest physical addresses below 3 GiB are RAM offsets.
  const page = memory.bytes(BOOT_PARAMS_GPA, abi.BOOT_PARAMS_SIZE).fill(0);
  const setup = BOOT_PARAMS_GPA + abi.SETUP_HEADER_OFFSET;
  if (header !== undefined) {
    page.set(header, abi.SETUP_HEADER_OFFSET);
  } else {
    memory.writeU16(setup + abi.setup_header.boot_flag.offset, abi.BOOT_FLAG_MAGIC);
    memory.writeU32(setup + abi.setup_header.header.offset, abi.SETUP_HEADER_MAGIC);
    memory.writeU16(setup + abi.setup_header.version.offset, abi.PROTOCOL_NEWEST);
    memory.writeU8(setup + abi.setup_header.loadflags.offset, abi.LOADED_HIGH);
  }
  memory.writeU8(setup + abi.setup_header.type_of_loader.offset, abi.LOADER_TYPE_UNDEFINED);
  // boot.rst, `code32_start`: to be changed by a loader that loads the kernel elsewhere.
  memory.writeU32(setup + abi.setup_header.code32_start.offset, kernelGpa);
  memory.writeU32(setup + abi.setup_header.cmd_line_ptr.offset, COMMAND_LINE_GPA);
  memory.writeU32(setup + abi.setup_header.ramdisk_image.offset, initrd?.gpa ?? 0);
  memory.writeU32(setup + abi.setup_header.ramdisk_size.offset, initrd?.size ?? 0);
  memory.writeU64(BOOT_PARAMS_GPA + abi.BOOT_PARAMS_ACPI_RSDP_ADDR, rsdpGpa);
  memory.writeU8(BOOT_PARAMS_GPA + abi.BOOT_PARAMS_E820_ENTRIES, memoryMap.length);
  memoryMap.forEach(({ gpa, size, type }, index) => {
    const at = BOOT_PARAMS_GPA + abi.BOOT_PARAMS_E820_TABLE + index * abi.boot_e820_entry.size;
    memory.writeU64(at + abi.boot_e820_entry.addr.offset, gpa);
    memory.writeU64(at + abi.boot_e820_entry.size_.offset, size);
    memory.writeU32(at + abi.boot_e820_entry.type.offset, type);
  });
}

// "32-bit Boot Protocol": protected mode without paging.

/**
 * Writes the zero page and the GDT. The command line is in place already.
 * @param entry the 32-bit entry point: where a bzImage's protected-mode code begins
 */
export function enterLinux32(
  memory: GuestMemory,
  entry: number,
  parameters: ZeroPageParameters,
): CpuEntryState {
  writeZeroPage(memory, parameters);
  return flatProtectedMode(
    memory,
    { cs: abi.BOOT_CS, ds: abi.BOOT_DS, tr: 0x20 },
    { rip: entry, rsi: BOOT_PARAMS_GPA },
  );
}

// "64-bit Boot Protocol": identity page tables, long mode.

const CR0_PE = 1;
const CR0_ET = 1 << 4;
const CR0_PG = 0x8000_0000;
const CR4_PAE = 1 << 5;
const EFER_LME = 1 << 8;
const EFER_LMA = 1 << 10;
const PAGE_SIZE = 4096;
const PTE_PRESENT_WRITABLE = 3;
const PDE_LARGE = 1 << 7;
const LARGE_PAGE_SIZE = 2 ** 21;
/** Page directories: 4 GiB, below which kernel, zero page, command line and initrd lie. */
const DIRECTORIES = 4;

/**
 * Writes the zero page, page tables and GDT. The command line is in place already.
 * @param entry the 64-bit entry point
 */
export function enterLinux64(
  memory: GuestMemory,
  entry: number,
  parameters: ZeroPageParameters,
): CpuEntryState {
  writeZeroPage(memory, parameters);
  writePageTables(memory);
  const cs = codeSegment(abi.BOOT_CS, 64);
  const ds = dataSegment(abi.BOOT_DS);
  const tr = taskStateSegment(0x20);
  return {
    mode: 'long64',
    rip: entry,
    rsp: 0,
    rbx: 0,
    rsi: BOOT_PARAMS_GPA,
    cr0: CR0_PE + CR0_ET + CR0_PG,
    cr3: PAGE_TABLES_GPA,
    cr4: CR4_PAE,
    efer: EFER_LME | EFER_LMA,
    gdt: writeGdt(memory, [cs, ds, tr]),
    cs,
    ds,
    tr,
  };
}

/** Identity-maps the first 4 GiB with 2 MiB pages (Intel SDM vol. 3 §4.5.4). */
function writePageTables(memory: GuestMemory): void {
  const pointers = PAGE_TABLES_GPA + PAGE_SIZE;
  const directories = pointers + PAGE_SIZE;
  memory.bytes(PAGE_TABLES_GPA, (2 + DIRECTORIES) * PAGE_SIZE).fill(0);
  memory.writeU64(PAGE_TABLES_GPA, pointers + PTE_PRESENT_WRITABLE);
  for (let index = 0; index < DIRECTORIES; index++) {
    const directory = directories + index * PAGE_SIZE;
    memory.writeU64(pointers + index * 8, directory + PTE_PRESENT_WRITABLE);
  }
  for (let index = 0; index < DIRECTORIES * 512; index++) {
    const page = index * LARGE_PAGE_SIZE + PDE_LARGE + PTE_PRESENT_WRITABLE;
    memory.writeU64(directories + index * 8, page);
  }
}
