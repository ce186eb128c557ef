/**
 * The capabilities in extended configuration space (PCIe 5.0 §7.6.3) of a passed function as its guest gets them.
 */
import * as pci from '../abi/pci.ts';

/**
 * Those that only identify the device, or are its vendor's. All others are about what the host's kernel has in
 * hand (errors, link, power), or would change what the device is to the host (SR-IOV, ACS, ARI, Resizable BAR,
 * ATS and PASID).
 */
const SHOWN: ReadonlySet<number> = new Set([
  pci.PCI_EXT_CAP_ID_DSN,
  pci.PCI_EXT_CAP_ID_VNDR,
  pci.PCI_EXT_CAP_ID_DVSEC,
]);
const FIRST = pci.PCI_CFG_SPACE_SIZE;
const END = pci.PCI_CFG_SPACE_EXP_SIZE;
/** ID (16 bits), version (4), and where the next one is (12). */
const HEADER_SIZE = 4;
const VERSION_SHIFT = 16;
const NEXT_SHIFT = 20;
/** Device Serial Number (§7.9.3). */
const DSN_SIZE = 12;
const VENDOR_SIZE_SHIFT = 20;

/** Extended configuration space: what the guest reads of it without the device, and what is the device's. */
export interface ExtendedSpace {
  /** By offset in configuration space; the headers of what is shown, and zeros. */
  readonly image: DataView;
  /** Stretches that the device answers for. */
  readonly passed: readonly { readonly offset: number; readonly end: number }[];
}

interface Found {
  readonly id: number;
  readonly version: number;
  readonly offset: number;
}

/** @param config the device's configuration space; 256 bytes if it has no more */
export function extendedSpace(config: DataView): ExtendedSpace {
  const image = new DataView(new ArrayBuffer(END));
  const found = findExtended(config);
  const shown = found.filter(({ id }) => SHOWN.has(id));
  shown.forEach(({ id, version, offset }, index) => {
    const next = shown[index + 1]?.offset ?? 0;
    image.setUint32(offset, header(id, version, next), true);
  });
  const [first] = shown;
  // The list begins at its first place, if need be with one that has no ID.
  if (first !== undefined && first.offset !== FIRST) {
    image.setUint32(FIRST, header(0, 0, first.offset), true);
  }
  const passed = shown.map(({ id, offset }) => {
    const others = found.map((other) => other.offset).filter((other) => other > offset);
    const size = id === pci.PCI_EXT_CAP_ID_DSN ? DSN_SIZE : vendorSize(config, offset);
    return { offset: offset + HEADER_SIZE, end: Math.min(END, offset + size, ...others) };
  });
  return { image, passed };
}

/** The device's list; one that loops or leaves its bounds ends there. */
function findExtended(config: DataView): Found[] {
  const found: Found[] = [];
  let offset = FIRST;
  while (offset >= FIRST && offset + HEADER_SIZE <= config.byteLength) {
    const at = offset;
    const word = config.getUint32(at, true);
    // All ones: there is none.
    if (word === 0 || word === 0xffff_ffff || found.some((other) => other.offset === at)) break;
    found.push({ id: word & 0xffff, version: (word >>> VERSION_SHIFT) & 0xf, offset });
    offset = (word >>> NEXT_SHIFT) & ~3;
  }
  return found;
}

/** The length in the second double word of both vendor-specific ones (§7.9.5.2, §7.9.6.2), whole double words. */
function vendorSize(config: DataView, offset: number): number {
  const second = offset + HEADER_SIZE;
  const word = second + 4 <= config.byteLength ? config.getUint32(second, true) : 0;
  return (word >>> VENDOR_SIZE_SHIFT) & ~3;
}

const header = (id: number, version: number, next: number): number =>
  ((next << NEXT_SHIFT) | (version << VERSION_SHIFT) | id) >>> 0;
