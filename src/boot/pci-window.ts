/** Where 64-bit PCI BARs may lie: the ACPI tables tell the guest, and the bus places BARs there. */
import { HIGH_RAM_BASE, LOW_RAM_LIMIT } from '../memory/ram-layout.ts';

const LARGEST = 64 * 2 ** 30;
const SMALLEST = 2 ** 30;

/**
 * The window for 64-bit BARs: above RAM, aligned to its size, at most 64 GiB, halved until it
 * fits below the end of the guest's physical addresses.
 * @param ramSize bytes of guest RAM
 * @param physicalAddressBits as in the guest's CPUID 0x80000008
 * @returns undefined when not even 1 GiB fits
 */
export function pciMmio64Window(
  ramSize: number,
  physicalAddressBits: number,
): { readonly base: number; readonly size: number } | undefined {
  const ramEnd = HIGH_RAM_BASE + Math.max(0, ramSize - LOW_RAM_LIMIT);
  for (let size = LARGEST; size >= SMALLEST; size /= 2) {
    const base = Math.ceil(ramEnd / size) * size;
    if (base + size <= 2 ** physicalAddressBits) return { base, size };
  }
  return undefined;
}
