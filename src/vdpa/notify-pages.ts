/**
 * Pages in which a vDPA device takes notifications (vhost-vdpa's mmap): a guest that has them notifies the device itself,
 * without KVM and eventfds. Parents have them that give each queue a page.
 */
import { Closeable } from '../host/cleanup-stack.ts';
import { viewOf } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';

const PAGE_SIZE = 0x1000;

/** All queues' pages, until closed. */
export class NotifyPages extends Closeable {
  /** Host addresses, by queue. */
  readonly addresses: readonly number[];
  #mapped = true;

  /** @returns undefined when the parent has none for some queue */
  static map(fd: number, queues: number): NotifyPages | undefined {
    const addresses: number[] = [];
    for (let queue = 0; queue < queues; queue++) {
      // The kernel refuses mappings that can be read.
      const { MAP_SHARED, PROT_WRITE } = sys;
      const address = sys.mmap(0, PAGE_SIZE, PROT_WRITE, MAP_SHARED, fd, queue * PAGE_SIZE);
      if (address < 0) {
        for (const mapped of addresses) sys.munmap(mapped, PAGE_SIZE);
        return undefined;
      }
      addresses.push(address);
    }
    return new NotifyPages(addresses);
  }

  private constructor(addresses: readonly number[]) {
    super();
    this.addresses = addresses;
    // A page that is not there yet is there only for writes: KVM_RUN would fail when a guest read it first.
    for (const [queue, address] of addresses.entries()) {
      new DataView(viewOf(address, 2)).setUint16(0, queue, true);
    }
  }

  /** No guest may have them mapped. */
  close(): void {
    if (!this.#mapped) return;
    this.#mapped = false;
    for (const address of this.addresses) sys.munmap(address, PAGE_SIZE);
  }
}
