/** Allocates what devices need on a board: bus slots, addresses, interrupts and eventfds. */
import { Closeable } from '../../host/cleanup-stack.ts';
import { Eventfd } from '../../host/fd.ts';
import type { MsixVector } from '../../pci/msix.ts';
import { PCI_MMIO32_BASE } from '../../platform/layout.ts';
import { Board } from '../board/board.ts';

/** First port for BARs: above what platform devices use. */
const FIRST_PORT = 0x1000;
/** The host bridge has slot 0. */
const FIRST_SLOT = 1;
const PAGE_SIZE = 0x1000;

/** The resources of one board. It owns the eventfds. */
export class ResourceAllocator extends Closeable {
  /** Whether doorbells of PCI devices are ports or memory. */
  readonly notify: 'io' | 'memory';
  readonly #eventfds: Eventfd[] = [];
  #memory = PCI_MMIO32_BASE;
  #port = FIRST_PORT;
  #slot = FIRST_SLOT;
  #window = 0;
  #route = 0;

  constructor(notify: 'io' | 'memory') {
    super();
    this.notify = notify;
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
    this.#memory = address + step;
    return address;
  }

  /** The first port of an I/O BAR. */
  ports(size: number): number {
    const address = Math.ceil(this.#port / size) * size;
    this.#port = address + size;
    return address;
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
