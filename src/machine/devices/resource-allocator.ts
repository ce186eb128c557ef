/** Allocates what devices need on a board: bus slots, addresses, interrupts and eventfds. */
import { Closeable } from '../../host/cleanup-stack.ts';
import { InternalError, UsageError } from '../../host/errors.ts';
import { Eventfd } from '../../host/fd.ts';
import { MiB } from '../../memory/ram-layout.ts';
import type { MsixVector } from '../../pci/msix.ts';
import { PCI_MMIO32_BASE, PCI_MMIO32_LIMIT, PCI_SLOTS } from '../../platform/layout.ts';
import { Board } from '../board/board.ts';

/** First port for BARs: above what platform devices use. */
const FIRST_PORT = 0x1000;
/** The host bridge has slot 0. */
const FIRST_SLOT = 1;
const PAGE_SIZE = 0x1000;
/** The first KVM memory slots are those of guest RAM. */
const FIRST_MEMORY_SLOT = 8;

/** Those of late devices, a range for each PCI slot. */
const FIRST_LATE_MEMORY_SLOT = 0x1000;
const LATE_MEMORY_SLOTS = 128;

/** Guest physical addresses. */
export interface AddressWindow {
  readonly base: number;
  readonly size: number;
}

/** What a device takes of its board. */
export interface DeviceResources {
  /** Whether doorbells of PCI devices are ports or memory. */
  readonly notify: 'io' | 'memory';
  /** A slot of the PCI bus. */
  slot(): number;
  /** The number of a virtio-mmio window. */
  window(): number;
  /** An address for a memory BAR. */
  memory(size: number): number;
  /** An address for a prefetchable 64-bit BAR. */
  memory64(size: number): number;
  /** The first port of an I/O BAR. */
  ports(size: number): number;
  /** The first of some KVM memory slots. */
  memorySlots(count: number): number;
  /** A message-signaled interrupt. */
  vector(): MsixVector;
  /** The descriptor of an eventfd. */
  eventfd(): number;
}

/** The resources of one board. It owns the eventfds. */
export class ResourceAllocator extends Closeable implements DeviceResources {
  readonly notify: 'io' | 'memory';
  readonly #eventfds: Eventfd[] = [];
  readonly #window64: AddressWindow | undefined;
  #memory = PCI_MMIO32_BASE;
  #memory64 = 0;
  #port = FIRST_PORT;
  /** Slots of the PCI bus that are taken. */
  readonly #slots = new Set<number>();
  readonly #late = new Set<LateResources>();
  /** Routes that late devices gave back. */
  readonly #freeRoutes: number[] = [];
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

  /** Routes of message-signaled interrupts allocated so far, whether still in use or not. */
  get routes(): number {
    return this.#route;
  }

  /** The slot that is taken next; undefined: the first free one. */
  nextSlot: number | undefined;

  /** A slot of the PCI bus. */
  slot(): number {
    let slot = this.nextSlot ?? FIRST_SLOT;
    this.nextSlot = undefined;
    while (this.#slots.has(slot)) slot++;
    if (slot === PCI_SLOTS) {
      throw new UsageError('E_DEVICES', 'the PCI bus has no free slot', 'remove a device first');
    }
    this.#slots.add(slot);
    return slot;
  }

  /** A slot of the PCI bus is empty again. */
  giveBackSlot(slot: number): void {
    this.#slots.delete(slot);
  }

  /**
   * The resources of one device that comes after power-on. Closing them gives all back, but the slot.
   * @throws UsageError when the bus is full
   */
  late(): LateResources {
    const late = new LateResources(this.notify, this.slot(), {
      take: () => this.#takeRoute(),
      giveBack: (routes) => {
        this.#freeRoutes.push(...routes);
        this.#late.delete(late);
      },
    });
    this.#late.add(late);
    return late;
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
    return { eventfd: this.eventfd(), gsi: Board.msiGsi(this.#takeRoute()) };
  }

  #takeRoute(): number {
    return this.#freeRoutes.pop() ?? this.#route++;
  }

  /** The descriptor of an eventfd. */
  eventfd(): number {
    const eventfd = new Eventfd();
    this.#eventfds.push(eventfd);
    return eventfd.fd;
  }

  close(): void {
    for (const late of [...this.#late]) late.close();
    for (const eventfd of this.#eventfds.splice(0)) eventfd.close();
  }
}

interface RoutePool {
  take(): number;
  giveBack(routes: readonly number[]): void;
}

/**
 * The resources of a device that comes after power-on. Its BARs have no addresses, as after a reset (PCI 3.0 §6.2.5.1): the
 * guest gives them some.
 */
export class LateResources extends Closeable implements DeviceResources {
  readonly notify: 'io' | 'memory';
  readonly #slot: number;
  readonly #pool: RoutePool;
  readonly #routes: number[] = [];
  readonly #eventfds: Eventfd[] = [];

  constructor(notify: 'io' | 'memory', slot: number, pool: RoutePool) {
    super();
    this.notify = notify;
    this.#slot = slot;
    this.#pool = pool;
  }

  slot(): number {
    return this.#slot;
  }

  window(): number {
    throw new InternalError('a virtio-mmio window after power-on');
  }

  memory(_size: number): number {
    return 0;
  }

  memory64(_size: number): number {
    return 0;
  }

  ports(_size: number): number {
    return 0;
  }

  memorySlots(count: number): number {
    if (count > LATE_MEMORY_SLOTS) {
      throw new UsageError('E_HOTPLUG', `a device with ${count} pages cannot be added`);
    }
    return FIRST_LATE_MEMORY_SLOT + this.#slot * LATE_MEMORY_SLOTS;
  }

  vector(): MsixVector {
    const route = this.#pool.take();
    this.#routes.push(route);
    return { eventfd: this.eventfd(), gsi: Board.msiGsi(route) };
  }

  eventfd(): number {
    const eventfd = new Eventfd();
    this.#eventfds.push(eventfd);
    return eventfd.fd;
  }

  close(): void {
    for (const eventfd of this.#eventfds.splice(0)) eventfd.close();
    this.#pool.giveBack(this.#routes.splice(0));
  }
}
