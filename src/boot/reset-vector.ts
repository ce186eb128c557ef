/** The only firmware in the guest: what a PC runs at its reset vector, here a write to the reset register. */
import type { GuestMemory } from '../memory/guest-memory.ts';
import { RESET_PORT, RESET_VALUE } from '../platform/layout.ts';

/** F000:FFF0, where the processor and kernels that reboot "by the BIOS" go in real mode. */
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
