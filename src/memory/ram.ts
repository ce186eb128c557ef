/** The owner of guest RAM: its mapping, and the memory file (memfd) behind it where there is one. */

import { Closeable } from '../host/cleanup-stack.ts';
import { Fd } from '../host/fd.ts';
import * as sys from '../host/syscall.ts';
import { GuestMemory } from './guest-memory.ts';
import { blocksShare } from './plugged-blocks.ts';

const MADV_HUGEPAGE = 14;
const NO_FILE = -1;

/**
 * What guest RAM is made of.
 * - `anonymous`: memory of this process, which the kernel may give in huge pages on its own: the
 *   guest's page walks, and its first touch of each page, then cost least.
 * - `memfd`: a file that other processes can map. Only where one must: by default kernels back
 *   such files with small pages.
 * - `hugetlb`: such a file on huge pages that the host's administrator reserved.
 */
export type RamBacking = 'anonymous' | 'memfd' | 'hugetlb';

/** Owns the mapping; every thread of the process may view it meanwhile. */
export class Ram extends Closeable {
  readonly memory: GuestMemory;
  readonly #file: Fd | undefined;
  readonly #size: number;
  #mapped = true;

  /**
   * @param size bytes, a multiple of the page size
   * @param sealed false: a process that gets the file may change its length
   * @param growth bytes of RAM besides that comes and goes, whole blocks; none of it is plugged
   * @throws HostError when the host cannot give that much
   */
  constructor(size: number, backing: RamBacking = 'anonymous', sealed = true, growth = 0) {
    super();
    const blocks = growth === 0 ? undefined : blocksShare(size, growth);
    const mapping = blocks === undefined ? size : blocks.offset + blocks.size;
    this.#size = mapping;
    const what = `${mapping / 2 ** 20} MiB of guest RAM`;
    const remedy =
      backing === 'hugetlb'
        ? 'reserve huge pages in /proc/sys/vm/nr_hugepages'
        : "reduce the guest's memory";
    this.#file =
      backing === 'anonymous'
        ? undefined
        : createMemoryFile('nodevmm-ram', mapping, what, {
            huge: backing === 'hugetlb',
            sealed,
            remedy,
          });
    const fd = this.#file?.fd ?? NO_FILE;
    const kind = backing === 'anonymous' ? sys.MAP_PRIVATE | sys.MAP_ANONYMOUS : sys.MAP_SHARED;
    const access = sys.PROT_READ | sys.PROT_WRITE;
    try {
      const mapped = sys.mmap(0, mapping, access, kind | sys.MAP_NORESERVE, fd, 0);
      const address = sys.check(mapped, 'mmap', what, remedy);
      // A wish: kernels without transparent huge pages refuse it.
      if (backing !== 'hugetlb') sys.madvise(address, mapping, MADV_HUGEPAGE);
      this.memory = new GuestMemory({
        fd,
        address,
        size,
        ...(blocks === undefined ? {} : { blocks }),
      });
    } catch (error) {
      this.#file?.close();
      throw error;
    }
  }

  /** Unmaps; every other thread must have ended its use before. */
  close(): void {
    if (!this.#mapped) return;
    this.#mapped = false;
    this.memory.detach();
    sys.munmap(this.memory.address, this.#size);
    this.#file?.close();
  }
}

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const MFD_HUGETLB = 4;
/** F_SEAL_SEAL, _SHRINK and _GROW. */
const SIZE_SEALS = 7;

/** How a memory file differs from others. */
export interface MemoryFileOptions {
  /** On huge pages that the host's administrator reserved. */
  readonly huge?: boolean;
  /** False: a process that gets the file may change its length. */
  readonly sealed?: boolean;
  /** What to do when there is no room. */
  readonly remedy?: string;
}

/**
 * Makes one of zeroes.
 * @param name for /proc
 * @param what for the error
 * @throws HostError when the host cannot give that much
 */
export function createMemoryFile(
  name: string,
  size: number,
  what: string,
  { huge = false, sealed = true, remedy }: MemoryFileOptions = {},
): Fd {
  const flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB : 0);
  const fd = sys.check(sys.memfdCreate(name, flags), 'memfd_create', what);
  const file = new Fd(fd);
  try {
    sys.check(sys.ftruncate(fd, size), 'ftruncate', what, remedy);
    // A process that it is shared with could else take it from under the others (SIGBUS).
    if (sealed) sys.check(sys.addSeals(fd, SIZE_SEALS), 'F_ADD_SEALS', what);
    return file;
  } catch (error) {
    file.close();
    throw error;
  }
}
