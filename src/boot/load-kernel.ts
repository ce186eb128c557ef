/** Loads a kernel and its initial RAM disk into guest memory, straight from their files. */
import { UsageError } from '../host/errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { MiB } from '../memory/ram-layout.ts';
import { HIGH_MEMORY_GPA, lowRamEnd } from './boot-layout.ts';
import { type ByteSource, FileSource } from './byte-source.ts';
import type { ElfImage } from './elf.ts';
import type { BzImage } from './kernel-image.ts';

/** A guest physical range. */
export interface GuestRange {
  readonly gpa: number;
  readonly size: number;
}

/**
 * Loads the segments of an ELF kernel where it is linked to run.
 * @throws UsageError E_MEMORY_TOO_SMALL, or E_NOT_A_KERNEL when it would lie below 1 MiB
 */
export function loadElf(memory: GuestMemory, source: ByteSource, image: ElfImage): GuestRange {
  checkPlace(memory, source.name, image.start, image.end);
  for (const { offset, paddr, filesz, memsz } of image.segments) {
    // Guest physical addresses in low RAM are RAM offsets.
    source.read(offset, memory.bytes(paddr, filesz));
    memory.bytes(paddr + filesz, memsz - filesz).fill(0);
  }
  return { gpa: image.start, size: image.end - image.start };
}

/**
 * Loads the protected-mode code of a bzImage at the address that it prefers.
 * @returns the range that the kernel needs until it reads the memory map (init_size)
 * @throws UsageError E_MEMORY_TOO_SMALL, or E_NOT_A_KERNEL when it would lie below 1 MiB
 */
export function loadBzImage(memory: GuestMemory, source: ByteSource, image: BzImage): GuestRange {
  const gpa = image.prefAddress;
  const size = Math.max(image.initSize, image.codeSize);
  checkPlace(memory, source.name, gpa, gpa + size);
  source.read(image.codeOffset, memory.bytes(gpa, image.codeSize));
  return { gpa, size };
}

function checkPlace(memory: GuestMemory, name: string, start: number, end: number): void {
  if (start < HIGH_MEMORY_GPA) {
    throw new UsageError(
      'E_NOT_A_KERNEL',
      `${name} must be loaded below 1 MiB, which is not supported`,
      'use a Linux kernel for x86',
    );
  }
  if (end > lowRamEnd(memory)) {
    throw new UsageError(
      'E_MEMORY_TOO_SMALL',
      `${name} needs memory up to ${Math.ceil(end / MiB)} MiB and the guest has ` +
        `${Math.floor(memory.size / MiB)} MiB`,
      'increase its memory',
    );
  }
}

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
    throw new UsageError('E_INITRD', `${file.name} is empty`, 'use another, or leave it out');
  const top = Math.min(lowRamEnd(memory), addressLimit + 1);
  const gpa = Math.floor((top - size) / PAGE_SIZE) * PAGE_SIZE;
  if (gpa < floor) {
    throw new UsageError(
      'E_INITRD_TOO_LARGE',
      `${file.name} has ${Math.ceil(size / MiB)} MiB and ${Math.max(0, Math.floor((top - floor) / MiB))} MiB ` +
        'are free above the kernel',
      'use a smaller initrd or increase --memory',
    );
  }
  // Guest physical addresses in low RAM are RAM offsets.
  file.read(0, memory.bytes(gpa, size));
  return { gpa, size };
}
