/** Where guest RAM lies in guest physical address space: below 3 GiB, and the rest above 4 GiB. */

export const MiB = 2 ** 20;
export const GiB = 2 ** 30;

/** Low RAM ends here at the latest; PCI windows, ECAM, IOAPIC and local APIC lie between here and 4 GiB. */
export const LOW_RAM_LIMIT = 3 * GiB;
/** High RAM starts here. */
export const HIGH_RAM_BASE = 4 * GiB;

/** One contiguous piece of guest RAM. */
export interface RamRegion {
  /** Guest physical address of the first byte. */
  readonly gpa: number;
  /** Bytes. */
  readonly size: number;
  /** Offset of the first byte in the memory file and in the mapping. */
  readonly offset: number;
}

/** The regions of a guest with `size` bytes of RAM, lowest first. */
export function ramRegions(size: number): RamRegion[] {
  const low = Math.min(size, LOW_RAM_LIMIT);
  const regions: RamRegion[] = [{ gpa: 0, size: low, offset: 0 }];
  if (size > low) regions.push({ gpa: HIGH_RAM_BASE, size: size - low, offset: low });
  return regions;
}
