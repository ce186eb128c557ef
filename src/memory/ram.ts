/** The owner of guest RAM: a memfd and its mapping. */
import { Fd } from '../host/fd.ts';
import * as sys from '../host/syscall.ts';
import { GuestMemory } from './guest-memory.ts';

const MFD_CLOEXEC = 1;
const MFD_HUGETLB = 4;

/** Owns the memory file and its mapping; every thread of the process may view it meanwhile. */
export class Ram implements Disposable {
  readonly memory: GuestMemory;
  readonly #file: Fd;

  /**
   * @param size bytes, a multiple of the page size
   * @param hugePages back the RAM with the host's default huge pages
   * @throws HostError when the host cannot give that much
   */
  constructor(size: number, hugePages = false) {
    const what = `${size / 2 ** 20} MiB of guest RAM`;
    const remedy = hugePages
      ? 'reserve huge pages in /proc/sys/vm/nr_hugepages'
      : 'give the guest less memory';
    const flags = MFD_CLOEXEC | (hugePages ? MFD_HUGETLB : 0);
    const fd = sys.check(sys.memfdCreate('nodevmm-ram', flags), 'memfd_create', what);
    this.#file = new Fd(fd);
    try {
      sys.check(sys.ftruncate(fd, size), 'ftruncate', what, remedy);
      const address = sys.check(
        sys.mmap(
          0,
          size,
          sys.PROT_READ | sys.PROT_WRITE,
          sys.MAP_SHARED | sys.MAP_NORESERVE,
          fd,
          0,
        ),
        'mmap',
        what,
        remedy,
      );
      this.memory = new GuestMemory({ fd, address, size });
    } catch (error) {
      this.#file.close();
      throw error;
    }
  }

  /** Unmaps; every other thread must have ended its use before. */
  [Symbol.dispose](): void {
    if (this.#file.fd < 0) return;
    this.memory.detach();
    sys.munmap(this.memory.address, this.memory.size);
    this.#file.close();
  }
}
