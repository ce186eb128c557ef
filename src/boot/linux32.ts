/** The 32-bit boot protocol (boot.rst, "32-bit Boot Protocol"): zero page, protected mode without paging. */
import { BOOT_CS, BOOT_DS } from '../abi/linux-boot.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { BOOT_PARAMS_GPA } from './boot-layout.ts';
import type { CpuEntryState } from './entry-state.ts';
import { flatProtectedMode } from './segments.ts';
import { writeZeroPage, type ZeroPageParameters } from './zero-page.ts';

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
    { cs: BOOT_CS, ds: BOOT_DS, tr: 0x20 },
    { rip: entry, rsi: BOOT_PARAMS_GPA },
  );
}
