/** The addresses of a passed device behind the machine's IOMMU: what the guest maps is in the host's I/O page tables. */
import { CleanupStack, Closeable } from '../host/cleanup-stack.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { type IovaMapping, IovaTable, mapAllRam } from '../memory/iova-table.ts';
import { type DmaRange, type DmaSpace, keepFromChildren } from './dma-space.ts';

/** Addresses and lengths are whole pages, which the caller has checked. */
export class DmaEndpoint extends Closeable {
  readonly #space: DmaSpace;
  readonly #ram: GuestMemory;
  readonly #table = new IovaTable();
  readonly #refused: () => void;
  readonly #owned = new CleanupStack();

  /**
   * Nothing is mapped yet.
   * @param space of this device alone; stays its owner's
   * @param refused the host did not let the device reach all guest RAM
   */
  constructor(space: DmaSpace, ram: GuestMemory, refused: () => void) {
    super();
    this.#space = space;
    this.#ram = ram;
    this.#refused = refused;
    this.#owned.use(keepFromChildren(ram));
  }

  /** @returns false when the host refuses: its IOMMU has no such address, or no more memory may be locked */
  map(address: number, gpa: number, length: number, access: number): boolean {
    const mapping = { address, gpa, length, access };
    // A device that the host took back reaches nothing.
    const isReached = access !== 0 && this.#space.isOpen;
    if (isReached && !this.#space.add(this.#range(mapping))) return false;
    this.#table.add(mapping);
    return true;
  }

  /** The device no longer reaches it on return. */
  unmap(address: number, length: number): void {
    for (const mapping of this.#table.within(address, length)) {
      if (mapping.access !== 0 && this.#space.isOpen) this.#space.remove(this.#range(mapping));
    }
    this.#table.remove(address, length);
  }

  clear(): void {
    this.unmap(0, Number.MAX_SAFE_INTEGER);
  }

  bypass(): void {
    if (!mapAllRam(this, this.#ram)) this.#refused();
  }

  close(): void {
    this.clear();
    this.#owned.dispose();
  }

  #range({ address: iova, gpa, length: size, access }: IovaMapping): DmaRange {
    return { iova, address: this.#ram.address + this.#ram.offset(gpa, size), size, access };
  }
}
