/** Files that exist in memory only, to be shared by their descriptor. */
import { Fd } from '../host/fd.ts';
import * as sys from '../host/syscall.ts';

const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
const MFD_HUGETLB = 4;
/** F_SEAL_SEAL, _SHRINK and _GROW. */
const SIZE_SEALS = 7;

/** How a memory file differs from others. */
export interface MemoryFileOptions {
  /** On huge pages that the host's administrator reserved. */
  readonly huge?: boolean;
  /** False: whoever gets the file may change its length. */
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
