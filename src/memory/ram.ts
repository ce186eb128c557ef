/** The owner of guest RAM: its mapping, and the memory file (memfd) behind it where there is one. */

import { CleanupStack, Closeable } from '../host/cleanup-stack.ts';
import { Fd } from '../host/fd.ts';
import { FaultGuard } from '../host/native-addon.ts';
import * as sys from '../host/syscall.ts';
import { fileRegions, type MappedFile } from './file-regions.ts';
import { GuestMemory } from './guest-memory.ts';
import { blocksShare, ramEnd } from './plugged-blocks.ts';

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
  readonly #owned: CleanupStack;

  /**
   * @param size bytes, a multiple of the page size
   * @param sealed false: a process that gets the file may change its length
   * @param more what is above it
   * @throws HostError when the host cannot give that much
   */
  constructor(
    size: number,
    backing: RamBacking = 'anonymous',
    sealed = true,
    { growth = 0, files = [] }: MoreRam = {},
  ) {
    super();
    const blocks = growth === 0 ? undefined : blocksShare(size, growth);
    const ownSize = blocks === undefined ? size : blocks.offset + blocks.size;
    const regions = fileRegions(
      files,
      blocks === undefined ? ramEnd(size) : blocks.gpa + blocks.size,
      ownSize,
    );
    const last = regions.at(-1);
    const mapping = last === undefined ? ownSize : last.offset + last.size;
    const what = `${mapping / 2 ** 20} MiB of guest RAM`;
    const remedy =
      backing === 'hugetlb'
        ? 'reserve huge pages in /proc/sys/vm/nr_hugepages'
        : "reduce the guest's memory";
    using stack = new CleanupStack();
    const file =
      backing === 'anonymous'
        ? undefined
        : stack.use(
            createMemoryFile('nodevmm-ram', ownSize, what, {
              huge: backing === 'hugetlb',
              sealed,
              remedy,
            }),
          );
    const fd = file?.fd ?? NO_FILE;
    const kind = backing === 'anonymous' ? sys.MAP_PRIVATE | sys.MAP_ANONYMOUS : sys.MAP_SHARED;
    const access = sys.PROT_READ | sys.PROT_WRITE;
    const mapped = sys.mmap(0, mapping, access, kind | sys.MAP_NORESERVE, fd, 0);
    const address = sys.check(mapped, 'mmap', what, remedy);
    stack.defer(() => sys.munmap(address, mapping));
    // A wish: kernels without transparent huge pages refuse it.
    if (backing !== 'hugetlb') sys.madvise(address, ownSize, MADV_HUGEPAGE);
    for (const [index, { offset }] of regions.entries()) {
      const mappedFile = files[index];
      if (mappedFile !== undefined) stack.use(mapFile(address + offset, mappedFile));
    }
    const share = { fd, address, size };
    this.memory = new GuestMemory({
      ...share,
      ...(blocks === undefined ? {} : { blocks }),
      ...(regions.length === 0 ? {} : { files: regions }),
    });
    stack.defer(() => this.memory.detach());
    this.#owned = stack.move();
  }

  /** Unmaps; every other thread must have ended its use before. */
  close(): void {
    this.#owned.dispose();
  }
}

/**
 * Puts a file into the mapping. A file that is only read gets a copy of a page that a device writes to nonetheless.
 * @returns what keeps loads and stores from failing where the file is cut
 */
function mapFile(at: number, { fd, size, readOnly, path }: MappedFile): FaultGuard {
  const kind = readOnly ? sys.MAP_PRIVATE | sys.MAP_NORESERVE : sys.MAP_SHARED;
  const access = sys.PROT_READ | sys.PROT_WRITE;
  sys.check(sys.mmap(at, size, access, kind | sys.MAP_FIXED, fd, 0), 'mmap', path);
  return new FaultGuard(at, size);
}

/** What is above a guest's RAM, for the constructor of it. */
export interface MoreRam {
  /** Bytes of RAM that comes and goes, whole blocks; none of it is plugged. Default 0. */
  readonly growth?: number;
  readonly files?: readonly MappedFile[];
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
