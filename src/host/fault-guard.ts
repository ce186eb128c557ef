/**
 * Survival of mappings whose file a peer may truncate: a page that is gone is replaced by zeroes
 * for good, and counted, instead of ending the process by SIGBUS. Only loads and stores of this
 * process count; system calls on such memory fail with EFAULT, and so does KVM_RUN.
 */
import { nativeAddon } from './native-addon.ts';
import * as sys from './syscall.ts';

const PAGE_SIZE = 4096;

/** Guards one mapping until it is disposed of, which must come before the munmap. */
export class FaultGuard implements Disposable {
  #slot: number;

  /**
   * @param address host virtual address of the mapping
   * @param size bytes
   * @param pageSize of the mapping, for huge pages
   * @throws HostError when 64 mappings are guarded already
   */
  constructor(address: number, size: number, pageSize: number = PAGE_SIZE) {
    this.#slot = sys.check(
      nativeAddon().guard(address, size, pageSize),
      'guarding',
      `a mapping of ${size} bytes`,
    );
  }

  /** Pages replaced so far: above 0 the peer has broken its promise. */
  get faults(): number {
    return this.#slot < 0 ? 0 : nativeAddon().guardFaults(this.#slot);
  }

  [Symbol.dispose](): void {
    if (this.#slot < 0) return;
    nativeAddon().unguard(this.#slot);
    this.#slot = -1;
  }
}
