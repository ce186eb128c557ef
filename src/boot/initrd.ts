/** The initial RAM disk, as high in low RAM as the kernel can reach. */
import { UsageError } from '../host/errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { MiB } from '../memory/ram-layout.ts';
import { lowRamEnd } from './boot-layout.ts';
import { FileSource } from './byte-source.ts';
import type { GuestRange } from './load-kernel.ts';

const PAGE_SIZE = 4096;

/**
 * Loads an initrd, page aligned.
 * @param path the file
 * @param floor first address above the kernel
 * @param addressLimit highest address that its last byte may have (initrd_addr_max)
 * @throws UsageError when it cannot be read, is empty or does not fit
 */
export function loadInitrd(
  memory: GuestMemory,
  path: string,
  floor: number,
  addressLimit: number,
): GuestRange {
  using file = new FileSource(path, 'initrd');
  const { size } = file;
  if (size === 0)
    throw new UsageError('E_INITRD', `${file.name} is empty; use another, or leave it out`);
  const top = Math.min(lowRamEnd(memory), addressLimit + 1);
  const gpa = Math.floor((top - size) / PAGE_SIZE) * PAGE_SIZE;
  if (gpa < floor) {
    throw new UsageError(
      'E_INITRD_TOO_LARGE',
      `${file.name} has ${Math.ceil(size / MiB)} MiB and ${Math.max(0, Math.floor((top - floor) / MiB))} MiB ` +
        'are free above the kernel; use a smaller initrd or increase --memory',
    );
  }
  // Guest physical addresses in low RAM are RAM offsets.
  file.read(0, memory.bytes(gpa, size));
  return { gpa, size };
}
