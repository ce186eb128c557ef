/**
 * The capabilities of a passed function (PCI 3.0 §6.7) as its guest gets them: which it sees, and which of
 * their bytes are the machine's own. Those in extended configuration space are not shown.
 */
import * as pci from '../abi/pci.ts';
import type { Area } from './regions.ts';

/** All others are hidden: they would change the host's device for good (VPD), or have no meaning here. */
const SHOWN: ReadonlySet<number> = new Set([
  pci.PCI_CAP_ID_PM,
  pci.PCI_CAP_ID_MSI,
  pci.PCI_CAP_ID_VNDR,
  pci.PCI_CAP_ID_SSVID,
  pci.PCI_CAP_ID_EXP,
  pci.PCI_CAP_ID_MSIX,
  pci.PCI_CAP_ID_SATA,
  pci.PCI_CAP_ID_AF,
]);
const { capabilities_pointer, status } = pci.pci_type0_header;
const FIRST = pci.PCI_STD_HEADER_SIZEOF;
const END = pci.PCI_CFG_SPACE_SIZE;
/** Message Control, from the start of the capability. */
const CONTROL = 2;

/** A capability where the device has it. */
export interface FoundCapability {
  readonly id: number;
  readonly offset: number;
  /** Where the next one begins, in the order of their offsets. */
  readonly end: number;
}

/** A function's list; one that loops or leaves its bounds ends there. */
export function findCapabilities(config: DataView): FoundCapability[] {
  if ((config.getUint8(status.offset) & pci.PCI_STATUS_CAP_LIST) === 0) return [];
  const offsets: number[] = [];
  let at = config.getUint8(capabilities_pointer.offset) & ~3;
  while (at >= FIRST && !offsets.includes(at)) {
    offsets.push(at);
    at = config.getUint8(at + 1) & ~3;
  }
  return offsets.map((offset) => ({
    id: config.getUint8(offset),
    offset,
    end: Math.min(END, ...offsets.filter((other) => other > offset)),
  }));
}

/** Whether the guest gets to see it. */
export const isShown = ({ id }: FoundCapability): boolean => SHOWN.has(id);

/** The device's MSI-X structures. */
export interface MsixPlace {
  /** Where its capability is. */
  readonly offset: number;
  readonly vectors: number;
  /** The registers that say where table and pending bits are. */
  readonly table: number;
  readonly pending: number;
  /** Where in which BAR these are. */
  readonly areas: readonly (Area & { readonly bar: number })[];
}

/** Where the table and the pending bits are (§6.8.2.4), if the device has any. */
export function msixPlace(config: DataView): MsixPlace | undefined {
  const found = findCapabilities(config).find(({ id }) => id === pci.PCI_CAP_ID_MSIX);
  if (found === undefined || found.offset + 12 > END) return undefined;
  const { offset } = found;
  const vectors = (config.getUint16(offset + CONTROL, true) & pci.PCI_MSIX_FLAGS_QSIZE) + 1;
  const table = config.getUint32(offset + 4, true);
  const pending = config.getUint32(offset + 8, true);
  const area = (register: number, size: number) => ({
    bar: register & 7,
    offset: (register & ~7) >>> 0,
    size,
  });
  const tableSize = vectors * pci.PCI_MSIX_ENTRY_SIZE;
  const areas = [area(table, tableSize), area(pending, Math.ceil(vectors / 64) * 8)];
  return { offset, vectors, table, pending, areas };
}

/** What of a capability is the machine's: its bytes from the third on, and bits of them. */
export interface OwnBytes {
  readonly body: Uint8Array;
  /** Bits that the guest reads from `body` and writes to it. */
  readonly own: Uint8Array;
  /** Those of them that it may write. */
  readonly writeMask: Uint8Array;
}

/** Offset of PMCSR, and its bits (PCI Power Management 1.2 §3.2.4). */
const PM_CTRL = 4;
const PM_CTRL_STATE_MASK = 0x3;
const PM_CTRL_NO_SOFT_RESET = 0x8;
const PM_CTRL_PME_ENABLE = 0x100;
const PM_SIZE = 8;

/** PCI Express Capabilities Register (PCIe 5.0 §7.5.3.2), and the device types in it. */
const EXP_FLAGS = 2;
const EXP_FLAGS_TYPE = 0xf0;
const EXP_TYPE_ENDPOINT = 0x00;
const EXP_TYPE_LEG_END = 0x10;
const EXP_TYPE_RC_END = 0x90;
/** Link registers: capabilities, control, and status; and the same of version 2. */
const EXP_LINKS: readonly (readonly [offset: number, size: number])[] = [
  [0x0c, 8],
  [0x2c, 8],
];

/** MSI and MSI-X are not among these: they have objects of their own. */
export function ownBytes(config: DataView, { id, offset, end }: FoundCapability): OwnBytes {
  const length = id === pci.PCI_CAP_ID_PM || id === pci.PCI_CAP_ID_EXP ? end - offset - 2 : 0;
  const start = config.byteOffset + offset + 2;
  const body = Uint8Array.from(new Uint8Array(config.buffer, start, length));
  const bytes = { body, own: new Uint8Array(length), writeMask: new Uint8Array(length) };
  if (id === pci.PCI_CAP_ID_PM && length >= PM_SIZE - 2) powerState(bytes);
  if (id === pci.PCI_CAP_ID_EXP && length >= 2) onRootBus(bytes);
  return bytes;
}

/**
 * The guest's power states are its own, and the device stays in D0: in D3 its memory would not answer,
 * which ends a vCPU that has it mapped.
 */
function powerState({ body, own, writeMask }: OwnBytes): void {
  own.fill(0xff, 0, PM_SIZE - 2);
  const at = PM_CTRL - 2;
  const view = new DataView(body.buffer, body.byteOffset);
  view.setUint16(at, PM_CTRL_NO_SOFT_RESET, true);
  new DataView(writeMask.buffer).setUint16(at, PM_CTRL_STATE_MASK | PM_CTRL_PME_ENABLE, true);
}

/** An endpoint right on the root bus is one of the root complex, which has no link (PCIe 5.0 §7.5.3). */
function onRootBus({ body, own }: OwnBytes): void {
  const at = EXP_FLAGS - 2;
  own.fill(0xff, at, at + 2);
  const view = new DataView(body.buffer, body.byteOffset);
  const flags = view.getUint16(at, true);
  const type = flags & EXP_FLAGS_TYPE;
  if (type !== EXP_TYPE_ENDPOINT && type !== EXP_TYPE_LEG_END) return;
  view.setUint16(at, (flags & ~EXP_FLAGS_TYPE) | EXP_TYPE_RC_END, true);
  for (const [offset, size] of EXP_LINKS) {
    const [start, end] = [offset - 2, offset - 2 + size];
    body.fill(0, start, end);
    own.fill(0xff, start, end);
  }
}
