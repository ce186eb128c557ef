/** What `inspect` shows of a function that was passed to the guest. */

/** A stretch of a BAR. */
export interface InspectedArea {
  /** From the BAR's start. */
  readonly offset: number;
  /** Bytes. */
  readonly size: number;
  /** The KVM memory slot by which the guest reaches it without exits; null: each access is an exit. */
  readonly slot: number | null;
}

/** A BAR of the function. */
export interface InspectedBar {
  /** 0 to 5. */
  readonly index: number;
  /** Ports, or memory with addresses of 32 or 64 bits. */
  readonly kind: 'io' | 'memory' | 'memory64';
  /** Bytes. */
  readonly size: number;
  /** Where the guest decodes it, hexadecimal; null when it does not. */
  readonly address: string | null;
  /** What it consists of. */
  readonly areas: readonly InspectedArea[];
}

/** How it interrupts the guest. */
export interface InspectedInterrupts {
  /** What the guest has enabled. */
  readonly mode: 'none' | 'INTx' | 'MSI' | 'MSI-X';
  /** Vectors of that mode that signal KVM. */
  readonly used: number;
  /** Vectors of that mode. */
  readonly vectors: number;
}

/** A PCI function of the host that the guest has. */
export interface InspectedFunction {
  /** e.g. `vfio0`. */
  readonly name: string;
  /** Its address on the host. */
  readonly address: string;
  /** Its IOMMU group. */
  readonly group: number;
  /** The host's driver that it is bound to. */
  readonly driver: string | null;
  /** Vendor and device ID, as `lspci -n` shows them. */
  readonly id: string;
  /** Class code: class, subclass, programming interface; 6 hexadecimal digits. */
  readonly classCode: string;
  /** How the guest finds it, e.g. `PCI 00:03.0`; absent while no guest runs. */
  readonly place?: string;
  /** The host took it back. */
  readonly gone: boolean;
  /** Those that it has. */
  readonly bars: readonly InspectedBar[];
  /** At present. */
  readonly interrupts: InspectedInterrupts;
  /** Bytes of guest RAM that are locked for the DMA of all such functions. */
  readonly pinned: number;
  /** How it can be reset: on its own, with all functions of its bus, or not. */
  readonly resetMethod: 'function' | 'bus' | 'none';
  /** How often nodevmm has reset it. */
  readonly resets: number;
}
