/** The 64-bit boot protocol (boot.rst, "64-bit Boot Protocol"): zero page, identity page tables, long mode. */
import { BOOT_CS, BOOT_DS } from '../abi/linux-boot.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { BOOT_PARAMS_GPA, PAGE_TABLES_GPA } from './boot-layout.ts';
import type { CpuEntryState } from './entry-state.ts';
import { codeSegment, dataSegment, taskStateSegment, writeGdt } from './segments.ts';
import { writeZeroPage, type ZeroPageParameters } from './zero-page.ts';

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
  const cs = codeSegment(BOOT_CS, 64);
  const ds = dataSegment(BOOT_DS);
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
