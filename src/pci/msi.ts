/**
 * MSI (PCI 3.0 §6.8.1). As with MSI-X, each vector is an eventfd that the device signals, coupled to
 * the guest's interrupt controller by irqfd while MSI is enabled and the vector is not masked.
 */
import * as pci from '../abi/pci.ts';
import type { InterruptController } from '../bus/interrupt-controller.ts';
import { drainEventfd } from '../host/fd.ts';
import type { SharedState } from '../state/shared-state.ts';
import type { PciCapability } from './function.ts';
import type { MsixVector } from './msix.ts';

/** From the start of the capability. */
const CONTROL = 2;
const ADDRESS = 4;
const ADDRESS_HIGH = 8;
/** Multiple Message Capable and Enable: log2 of a number of vectors. */
const QMASK_SHIFT = 1;
const QSIZE_SHIFT = 4;
/** 2^5 vectors; more is reserved. */
const MOST = 5;
/** Words that describe where messages go: address, its upper half, data, and their number. */
const ROUTE_WORDS = 4;

/** The MSI capability of one function. */
export class Msi implements PciCapability {
  readonly id = pci.PCI_CAP_ID_MSI;
  readonly body: Uint8Array;
  readonly writeMask: Uint8Array;
  /** Called when the guest enabled another number of vectors: 0 for none. */
  enabledChanged: () => void = () => {};
  readonly #interrupts: InterruptController;
  readonly #vectors: readonly MsixVector[];
  /** 1 for each vector that is coupled to its interrupt route. */
  readonly #connected: Uint8Array;
  /** What the routes were made of. */
  readonly #route: Int32Array;
  readonly #data: number;
  readonly #mask: number | undefined;
  #config: DataView | undefined;
  #offset = 0;

  /**
   * @param control Message Control of the device: how many vectors, which addresses, whether there are masks
   * @param vectors as many as can be delivered; a power of two of them is offered
   */
  constructor(
    state: SharedState,
    interrupts: InterruptController,
    control: number,
    vectors: readonly MsixVector[],
  ) {
    this.#interrupts = interrupts;
    const log2 = Math.min((control & pci.PCI_MSI_FLAGS_QMASK) >> QMASK_SHIFT, MOST);
    const offered = Math.min(log2, Math.floor(Math.log2(Math.max(1, vectors.length))));
    this.#vectors = vectors.slice(0, 2 ** offered);
    this.#connected = state.bytes(this.#vectors.length);
    this.#route = state.words(ROUTE_WORDS);
    const is64 = (control & pci.PCI_MSI_FLAGS_64BIT) !== 0;
    const masks = (control & pci.PCI_MSI_FLAGS_MASKBIT) !== 0;
    this.#data = is64 ? 0xc : 8;
    this.#mask = masks ? this.#data + 4 : undefined;
    const size = (masks ? this.#data + 12 : this.#data + 2) - 2;
    this.body = new Uint8Array(size);
    this.writeMask = new Uint8Array(size);
    const flags = pci.PCI_MSI_FLAGS_64BIT | pci.PCI_MSI_FLAGS_MASKBIT;
    const body = new DataView(this.body.buffer);
    body.setUint16(0, (control & flags) | (offered << QMASK_SHIFT), true);
    const mask = new DataView(this.writeMask.buffer);
    mask.setUint16(0, pci.PCI_MSI_FLAGS_ENABLE | pci.PCI_MSI_FLAGS_QSIZE, true);
    mask.setUint32(ADDRESS - 2, 0xffff_fffc, true);
    if (is64) mask.setUint32(ADDRESS_HIGH - 2, 0xffff_ffff, true);
    mask.setUint16(this.#data - 2, 0xffff, true);
    const offeredBits = 2 ** this.#vectors.length - 1;
    if (this.#mask !== undefined) mask.setUint32(this.#mask - 2, offeredBits, true);
  }

  placed(offset: number, config: DataView): void {
    this.#offset = offset;
    this.#config = config;
  }

  /** How many vectors the guest has enabled: 0 while MSI is off. */
  get enabled(): number {
    const control = this.#config?.getUint16(this.#offset + CONTROL, true) ?? 0;
    if ((control & pci.PCI_MSI_FLAGS_ENABLE) === 0) return 0;
    const count = 2 ** ((control & pci.PCI_MSI_FLAGS_QSIZE) >> QSIZE_SHIFT);
    return Math.min(count, this.#vectors.length);
  }

  /** Power-on state: off. After configuration space was reset. */
  reset(): void {
    this.#sync();
  }

  /** The guest wrote any of its registers. */
  written(): void {
    const before = this.#route[3];
    const count = this.enabled;
    if (count !== 0 && before === 0) {
      for (const { eventfd } of this.#vectors) drainEventfd(eventfd);
    }
    this.#sync();
    if (count !== before) this.enabledChanged();
  }

  /** The pending bits are those of masked vectors (§6.8.1.9). */
  reading(): void {
    if (this.#mask === undefined) return;
    let bits = 0;
    this.#vectors.forEach(({ eventfd }, index) => {
      const masked = this.#connected[index] === 0 && index < this.enabled;
      if (masked && this.#interrupts.isSignalled(eventfd)) bits |= 1 << index;
    });
    this.#config?.setUint32(this.#offset + this.#mask + 4, bits >>> 0, true);
  }

  #sync(): void {
    const config = this.#config;
    if (config === undefined) return;
    const at = this.#offset;
    const count = this.enabled;
    const low = config.getUint32(at + ADDRESS, true);
    const high = this.#data === 8 ? 0 : config.getUint32(at + ADDRESS_HIGH, true);
    const data = config.getUint16(at + this.#data, true);
    const masks = this.#mask === undefined ? 0 : config.getUint32(at + this.#mask, true);
    const route = this.#route;
    const moved =
      route[0] !== (low | 0) || route[1] !== (high | 0) || route[2] !== data || route[3] !== count;
    this.#vectors.forEach(({ gsi, eventfd }, index) => {
      const wanted = index < count && ((masks >>> index) & 1) === 0;
      if (this.#connected[index] === 1 && (moved || !wanted)) {
        this.#connected[index] = 0;
        this.#interrupts.disconnectMsi(gsi, eventfd);
      }
      if (wanted && this.#connected[index] === 0) {
        this.#connected[index] = 1;
        // The low bits of the data are the vector's number (§6.8.1.6).
        const message = (data & ~(count - 1)) | index;
        this.#interrupts.connectMsi(gsi, eventfd, high * 2 ** 32 + low, message);
      }
    });
    route[0] = low;
    route[1] = high;
    route[2] = data;
    route[3] = count;
  }
}
