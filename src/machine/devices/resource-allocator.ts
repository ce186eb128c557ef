/** Allocates what devices need on a board: bus slots, addresses, interrupts and eventfds. */
import { Closeable } from '../../host/cleanup-stack.ts';
import { UsageError } from '../../host/errors.ts';
import { Eventfd } from '../../host/fd.ts';
import { MiB } from '../../memory/ram-layout.ts';
import type { MsixVector } from '../../pci/msix.ts';
import { PCI_MMIO32_BASE, PCI_MMIO32_LIMIT } from '../../platform/layout.ts';
import { Board } from '../board/board.ts';

/** First port for BARs: above what platform devices use. */
const FIRST_PORT = 0x1000;
/** The host bridge has slot 0. */
const FIRST_SLOT = 1;
const PAGE_SIZE = 0x1000;
/** The first KVM memory slots are those of guest RAM. */
const FIRST_MEMORY_SLOT = 8;

/** Guest physical addresses. */
export interface AddressWindow {
  readonly base: number;
  readonly size: number;
}

/** The resources of one board. It owns the eventfds. */
export class ResourceAllocator extends Closeable {
  /** Whether doorbells of PCI devices are ports or memory. */
  readonly notify: 'io' | 'memory';
  readonly #eventfds: Eventfd[] = [];
  readonly #window64: AddressWindow | undefined;
  #memory = PCI_MMIO32_BASE;
  #memory64 = 0;
  #port = FIRST_PORT;
  #slot = FIRST_SLOT;
  #window = 0;
  #route = 0;
  #memorySlot = FIRST_MEMORY_SLOT;

  /** @param window64 the guest's window for 64-bit BARs, if it has one */
  constructor(notify: 'io' | 'memory', window64?: AddressWindow) {
    super();
    this.notify = notify;
    this.#window64 = window64;
    this.#memory64 = window64?.base ?? 0;
  }

  /** Routes of message-signaled interrupts allocated so far. */
  get routes(): number {
    return this.#route;
  }

  /** A slot of the PCI bus. */
  slot(): number {
    return this.#slot++;
  }

  /** The number of a virtio-mmio window. */
  window(): number {
    return this.#window++;
  }

  /** An address for a memory BAR. Each has its own pages, so that guests may map them separately. */
  memory(size: number): number {
    const step = Math.max(size, PAGE_SIZE);
    const address = Math.ceil(this.#memory / step) * step;
    if (address + step > PCI_MMIO32_LIMIT) {
      throw new UsageError(
        'E_BAR',
        `the guest's PCI window of ${(PCI_MMIO32_LIMIT - PCI_MMIO32_BASE) / MiB} MiB has no room for a BAR of ${size / MiB} MiB`,
        'leave out a device',
      );
    }
    this.#memory = address + step;
    return address;
  }

  /** An address for a prefetchable 64-bit BAR: in the 64-bit window, where there is one. */
  memory64(size: number): number {
    if (this.#window64 === undefined) return this.memory(size);
    const step = Math.max(size, PAGE_SIZE);
    const address = Math.ceil(this.#memory64 / step) * step;
    if (address + step > this.#window64.base + this.#window64.size) return this.memory(size);
    this.#memory64 = address + step;
    return address;
  }

  /** The first port of an I/O BAR. */
  ports(size: number): number {
    const address = Math.ceil(this.#port / size) * size;
    this.#port = address + size;
    return address;
  }

  /** The first of some KVM memory slots. */
  memorySlots(count: number): number {
    const first = this.#memorySlot;
    this.#memorySlot += count;
    return first;
  }

  /** A message-signaled interrupt. */
  vector(): MsixVector {
    return { eventfd: this.eventfd(), gsi: Board.msiGsi(this.#route++) };
  }

  /** The descriptor of an eventfd. */
  eventfd(): number {
    const eventfd = new Eventfd();
    this.#eventfds.push(eventfd);
    return eventfd.fd;
  }

  close(): void {
    for (const eventfd of this.#eventfds.splice(0)) eventfd.close();
  }
}
