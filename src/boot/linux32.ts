/** The 32-bit boot protocol (boot.rst, "32-bit Boot Protocol"): zero page, protected mode without paging. */
import { BOOT_CS, BOOT_DS } from '../abi/linux-boot.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { BOOT_PARAMS_GPA } from './boot-layout.ts';
import type { CpuEntryState } from './entry-state.ts';
import { codeSegment, dataSegment, taskStateSegment, writeGdt } from './segments.ts';
import { writeZeroPage, type ZeroPageParameters } from './zero-page.ts';

const CR0_PE = 1;
const CR0_ET = 1 << 4;

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
  const cs = codeSegment(BOOT_CS, 32);
  const ds = dataSegment(BOOT_DS);
  const tr = taskStateSegment(0x20);
  return {
    mode: 'protected32',
    rip: entry,
    rsp: 0,
    rbx: 0,
    rsi: BOOT_PARAMS_GPA,
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
