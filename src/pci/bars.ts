/**
 * Base address registers (PCI 3.0 §6.2.5): sizing, moving, decoding, and the doorbells inside of
 * them, which follow wherever the guest puts the BAR.
 */
import * as pci from '../abi/pci.ts';
import type { Range, RegisterRegion } from '../bus/address-space.ts';
import type { InterruptController } from '../bus/interrupt-controller.ts';
import { InternalError } from '../host/errors.ts';
import type { SharedState } from '../state/shared-state.ts';

const { command, base_address } = pci.pci_type0_header;
const BARS = 6;
/** A BAR's doorbells are connected nowhere. */
const NOWHERE = -1;

/** What lies behind a BAR. */
export interface BarSpec {
  readonly kind: 'io' | 'memory' | 'memory64';
  /** Bytes, a power of two: at least 4 for ports, 16 for memory. */
  readonly size: number;
  readonly region: RegisterRegion;
  /** Default: of 64-bit BARs only. */
  readonly prefetchable?: boolean;
  /** Called when it is decoded elsewhere, with its address, or -1 for nowhere. */
  moved?(address: number): void;
}

interface Doorbell {
  readonly bar: number;
  readonly offset: number;
  readonly eventfd: number;
}

/** The BARs of one function. */
export class BarSet {
  /** Whether the function's power state lets it decode any. */
  isPowered: () => boolean = () => true;
  readonly #interrupts: InterruptController;
  readonly #config: DataView;
  readonly #image: Uint8Array;
  readonly #mask: Uint8Array;
  readonly #specs: (BarSpec | undefined)[] = new Array(BARS).fill(undefined);
  readonly #doorbells: Doorbell[] = [];
  /** Address at which each BAR's doorbells are connected, as a double; shared. */
  readonly #connected: Float64Array;

  constructor(
    state: SharedState,
    interrupts: InterruptController,
    config: DataView,
    image: Uint8Array,
    mask: Uint8Array,
  ) {
    this.#interrupts = interrupts;
    this.#config = config;
    this.#image = image;
    this.#mask = mask;
    const bytes = state.bytes(BARS * 8);
    this.#connected = new Float64Array(bytes.buffer, bytes.byteOffset, BARS);
  }

  add(index: number, spec: BarSpec, address: number): void {
    if (address % spec.size !== 0) throw new InternalError('misaligned BAR');
    if (spec.kind !== 'memory64' && spec.size >= 2 ** 32) {
      throw new InternalError('a BAR of 4 GiB or more without 64 bits');
    }
    this.#specs[index] = spec;
    const at = base_address.offset + index * 4;
    const image = new DataView(this.#image.buffer);
    const mask = new DataView(this.#mask.buffer);
    image.setUint32(at, (address % 2 ** 32) + flagsOf(spec), true);
    // The bits below the size read as zero whatever is written: that is how the guest sizes a BAR.
    mask.setUint32(at, -spec.size >>> 0, true);
    if (spec.kind !== 'memory64') return;
    image.setUint32(at + 4, Math.floor(address / 2 ** 32), true);
    const inHigh = spec.size / 2 ** 32;
    mask.setUint32(at + 4, inHigh < 1 ? 0xffff_ffff : -inHigh >>> 0, true);
  }

  spec(index: number): BarSpec | undefined {
    return this.#specs[index];
  }

  /** An eventfd that guest writes to this place of a BAR signal, without an exit. */
  addDoorbell(bar: number, offset: number, eventfd: number): void {
    this.#doorbells.push({ bar, offset, eventfd });
  }

  /** The ranges that are decoded now, by address space. */
  ranges(io: boolean): Range[] {
    const found: Range[] = [];
    this.#specs.forEach((spec, index) => {
      if (spec === undefined || (spec.kind === 'io') !== io) return;
      const base = this.address(index);
      if (base !== NOWHERE) found.push({ base, size: spec.size, region: spec.region });
    });
    return found;
  }

  /** Where a BAR is decoded, or -1. */
  address(index: number): number {
    const spec = this.#specs[index];
    if (spec === undefined) return NOWHERE;
    const enabled = this.#config.getUint16(command.offset, true);
    const wanted = spec.kind === 'io' ? pci.PCI_COMMAND_IO : pci.PCI_COMMAND_MEMORY;
    if ((enabled & wanted) === 0 || !this.isPowered()) return NOWHERE;
    const at = base_address.offset + index * 4;
    const low = this.#config.getUint32(at, true);
    if (spec.kind === 'io') return low > 0xffff ? NOWHERE : low & 0xfffc;
    const high = spec.kind === 'memory64' ? this.#config.getUint32(at + 4, true) : 0;
    return high * 2 ** 32 + ((low & ~0xf) >>> 0);
  }

  /** Moves the doorbells to where the BARs are now. */
  reconnect(): void {
    for (let index = 0; index < BARS; index++) this.#moveDoorbells(index, this.address(index));
  }

  /** Takes all doorbells away. */
  disconnect(): void {
    for (let index = 0; index < BARS; index++) this.#moveDoorbells(index, NOWHERE);
  }

  #moveDoorbells(index: number, address: number): void {
    const spec = this.#specs[index];
    if (spec === undefined) return;
    // The shared array starts as zeros, so it holds the address plus one.
    const old = (this.#connected[index] ?? 0) - 1;
    if (old === address) return;
    this.#connected[index] = address + 1;
    spec.moved?.(address);
    const io = spec.kind === 'io';
    for (const { bar, offset, eventfd } of this.#doorbells) {
      if (bar !== index) continue;
      if (old !== NOWHERE) this.#interrupts.removeDoorbell(old + offset, io, eventfd);
      if (address !== NOWHERE) this.#interrupts.addDoorbell(address + offset, io, eventfd);
    }
  }
}

/** The lowest bits of a BAR (§6.2.5.1). */
function flagsOf({ kind, prefetchable = kind === 'memory64' }: BarSpec): number {
  if (kind === 'io') return pci.PCI_BASE_ADDRESS_SPACE_IO;
  const type = kind === 'memory64' ? pci.PCI_BASE_ADDRESS_MEM_TYPE_64 : 0;
  return type | (prefetchable ? pci.PCI_BASE_ADDRESS_MEM_PREFETCH : 0);
}
