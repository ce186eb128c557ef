/** Gives each device its place: addresses, doorbells and interrupts. */
import { E1000_IO_SIZE, E1000_MEMORY_SIZE } from '../../abi/e1000.ts';
import { Eventfd } from '../../host/fd.ts';
import type { E1000PciPlan } from '../../nic/pci.ts';
import { PCI_MMIO32_BASE, VIRTIO_MMIO_BASE } from '../../platform/layout.ts';
import type { DeviceShape } from '../../virtio/transport/device-contract.ts';
import { VIRTIO_MMIO_WINDOW_SIZE, type VirtioMmioPlan } from '../../virtio/transport/mmio.ts';
import {
  notifyBarSize,
  VIRTIO_MSIX_BAR_SIZE,
  VIRTIO_STRUCTURES_BAR_SIZE,
  type VirtioPciPlan,
} from '../../virtio/transport/pci.ts';
import type { TransportName } from '../options.ts';
import { Board } from './board.ts';
import type { DevicePlan } from './board-devices.ts';

/** First port for BARs: above what platform devices use. */
const FIRST_PORT = 0x1000;
/** The host bridge has slot 0. */
const FIRST_SLOT = 1;

/** A virtio device that is to have a place. */
export interface VirtioEntry {
  readonly kind: 'virtio';
  readonly transport: TransportName;
  readonly shape: DeviceShape;
  readonly pciClass: number;
}

/** An emulated network card. */
export interface NicEntry {
  readonly kind: 'e1000';
  readonly name: string;
  /** Six bytes. */
  readonly mac: Uint8Array;
}

/** A device that is to have a place. */
export type DeviceEntry = VirtioEntry | NicEntry;

/** The plans of all devices, and the eventfds in them, which belong to this object. */
export class DevicePlaces implements Disposable {
  readonly plans: readonly DevicePlan[];
  readonly #eventfds: Eventfd[] = [];
  #memory = PCI_MMIO32_BASE;
  #port = FIRST_PORT;
  #slot = FIRST_SLOT;
  #window = 0;
  #route = 0;

  /** @param notify whether doorbells are ports or memory */
  constructor(entries: readonly DeviceEntry[], notify: 'io' | 'memory') {
    try {
      this.plans = entries.map((entry) => this.#plan(entry, notify));
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  [Symbol.dispose](): void {
    for (const eventfd of this.#eventfds.splice(0)) eventfd.close();
  }

  #plan(entry: DeviceEntry, notify: 'io' | 'memory'): DevicePlan {
    if (entry.kind === 'e1000') return { kind: 'e1000', plan: this.#nic(entry) };
    if (entry.transport === 'mmio') return { kind: 'virtio-mmio', plan: this.#virtioMmio(entry) };
    return { kind: 'virtio-pci', plan: this.#virtioPci(entry, notify) };
  }

  #nic({ name, mac }: NicEntry): E1000PciPlan {
    return {
      name,
      slot: this.#slot++,
      mac,
      memoryAddress: this.#placeMemory(E1000_MEMORY_SIZE),
      ioAddress: this.#placePort(E1000_IO_SIZE),
      kick: this.#eventfd(),
    };
  }

  #virtioPci({ shape, pciClass }: VirtioEntry, notify: 'io' | 'memory'): VirtioPciPlan {
    const queues = shape.queueSizes.length;
    const notifySize = notifyBarSize(queues);
    return {
      shape,
      pciClass,
      slot: this.#slot++,
      notify,
      structuresAddress: this.#placeMemory(VIRTIO_STRUCTURES_BAR_SIZE),
      msixAddress: this.#placeMemory(VIRTIO_MSIX_BAR_SIZE),
      notifyAddress: notify === 'io' ? this.#placePort(notifySize) : this.#placeMemory(notifySize),
      vectors: Array.from({ length: queues + 1 }, () => ({
        eventfd: this.#eventfd(),
        gsi: Board.msiGsi(this.#route++),
      })),
      kicks: Array.from({ length: queues }, () => this.#eventfd()),
      intxEventfd: this.#eventfd(),
    };
  }

  #virtioMmio({ shape }: VirtioEntry): VirtioMmioPlan {
    const index = this.#window++;
    return {
      shape,
      index,
      address: VIRTIO_MMIO_BASE + index * VIRTIO_MMIO_WINDOW_SIZE,
      kicks: shape.queueSizes.map(() => this.#eventfd()),
      lineEventfd: this.#eventfd(),
    };
  }

  #eventfd(): number {
    const eventfd = new Eventfd();
    this.#eventfds.push(eventfd);
    return eventfd.fd;
  }

  /** Memory BARs get pages of their own, so that a guest may map each to another address space. */
  #placeMemory(size: number): number {
    const step = Math.max(size, 0x1000);
    const address = Math.ceil(this.#memory / step) * step;
    this.#memory = address + step;
    return address;
  }

  #placePort(size: number): number {
    const address = Math.ceil(this.#port / size) * size;
    this.#port = address + size;
    return address;
  }
}
