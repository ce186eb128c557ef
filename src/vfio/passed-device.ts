/** An opened device: its regions, interrupts and initial configuration space, and the pages that are mapped. */
import * as pci from '../abi/pci.ts';
import * as abi from '../abi/vfio.ts';
import { CleanupStack, Closeable } from '../host/cleanup-stack.ts';
import { UsageError } from '../host/errors.ts';
import { StructMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';
import type { BarSpec } from '../pci/bars.ts';
import { MSIX_VECTORS_MAX } from '../pci/msix.ts';
import { type MsixPlace, msixPlace } from './capabilities.ts';
import type { DmaSpace } from './dma-space.ts';
import { type HostFunction, isBound } from './host-function.ts';
import { hotReset, readHotResetInfo } from './hot-reset.ts';
import { type Area, carve, NO_REGION, parseRegion, type Region } from './regions.ts';
import { VfioFile } from './vfio-file.ts';

/** Room for the capabilities of a region. */
const REGION_INFO_ROOM = 4096;
const BARS = 6;
const { base_address } = pci.pci_type0_header;

/** Pages of a BAR in this process. */
export interface MappedArea extends Area {
  /** Host virtual address. */
  readonly address: number;
}

/** A BAR of the device. */
export interface PassedBar {
  readonly index: number;
  readonly kind: BarSpec['kind'];
  readonly prefetchable: boolean;
  readonly size: number;
  /** Of its first byte in the device's file. */
  readonly offset: number;
  readonly mapped: readonly MappedArea[];
}

/** What of the device every thread must know; a plain, cloneable message. */
export interface DeviceShape {
  readonly fd: number;
  /** Where configuration space is in the file. */
  readonly configOffset: number;
  /** Configuration space as it was when the device was opened: 256 bytes, or 4 KiB. */
  readonly config: Uint8Array;
  readonly bars: readonly PassedBar[];
  readonly msix: MsixPlace | undefined;
  /** Interrupts by index, VFIO_PCI_*_IRQ_INDEX. */
  readonly interrupts: readonly number[];
}

/** `bus`: with all functions next to it. */
export type ResetMethod = 'function' | 'bus' | 'none';

/** Owns the device's file and the mappings of it. */
export class PassedDevice extends Closeable {
  readonly shape: DeviceShape;
  readonly file: VfioFile;
  readonly #canReset: boolean;
  readonly #space: DmaSpace;
  readonly #owned: CleanupStack;

  /** @throws UsageError or HostError when it cannot be opened */
  constructor(pciFunction: HostFunction, space: DmaSpace) {
    super();
    using stack = new CleanupStack();
    const { address } = pciFunction;
    const fd = space.open(pciFunction);
    stack.defer(() => space.leave());
    stack.use(fd);
    this.file = new VfioFile(fd.fd);
    const info = new StructMemory(abi.vfio_device_info);
    info.set('argsz', abi.vfio_device_info.size);
    const asked = sys.ioctl(fd.fd, abi.VFIO_DEVICE_GET_INFO, info.address);
    sys.check(asked, 'VFIO_DEVICE_GET_INFO', address);
    const flags = info.getNumber('flags');
    if ((flags & abi.VFIO_DEVICE_FLAGS_PCI) === 0) {
      throw new UsageError('E_VFIO_DEVICE', `${address} is no PCI function to VFIO`);
    }
    this.#space = space;
    this.#canReset = (flags & abi.VFIO_DEVICE_FLAGS_RESET) !== 0;
    const regions = Array.from({ length: info.getNumber('num_regions') }, (_, index) =>
      readRegion(fd.fd, index),
    );
    const interrupts = Array.from({ length: info.getNumber('num_irqs') }, (_, index) =>
      countInterrupts(fd.fd, index),
    );
    const { offset: configOffset, size } = regions[abi.VFIO_PCI_CONFIG_REGION_INDEX] ?? NO_REGION;
    const isExtended = size >= pci.PCI_CFG_SPACE_EXP_SIZE;
    const config = new Uint8Array(isExtended ? pci.PCI_CFG_SPACE_EXP_SIZE : pci.PCI_CFG_SPACE_SIZE);
    const view = new DataView(config.buffer);
    for (let at = 0; at < config.length; at += 4) {
      view.setUint32(at, this.file.read(configOffset + at, 4), true);
    }
    const found = msixPlace(view);
    const msix = found && { ...found, vectors: Math.min(found.vectors, MSIX_VECTORS_MAX) };
    const bars = findBars(view, regions).map((bar) => {
      const trapped = (found?.areas ?? []).filter((area) => area.bar === bar.index);
      const areas = bar.kind === 'io' ? [] : carve(regions[bar.index]?.mappable ?? [], trapped);
      return { ...bar, mapped: areas.map((area) => map(fd.fd, bar.offset, area, stack)) };
    });
    this.shape = { fd: fd.fd, configOffset, config, bars, msix, interrupts };
    this.#owned = stack.move();
  }

  /** How it can be reset: on its own, with all of its bus, or not. Which of them may change as devices come and go. */
  get resetMethod(): ResetMethod {
    if (this.#canReset) return 'function';
    return this.#busProof() === undefined ? 'none' : 'bus';
  }

  /**
   * Keeps it from memory and resets it. One that cannot be reset keeps its state, but DMA is off until a
   * driver switches it on.
   * @returns whether it was reset
   */
  quiesce(): boolean {
    const { configOffset, fd } = this.shape;
    this.file.write(configOffset + pci.pci_type0_header.command.offset, 2, 0);
    if (this.#canReset) return this.file.reset() === 0;
    const proof = this.#busProof();
    return proof !== undefined && hotReset(fd, proof) === 0;
  }

  #busProof(): readonly number[] | undefined {
    const info = readHotResetInfo(this.shape.fd);
    // The kernel refuses when one of them has another driver, or none.
    if (info === undefined || !info.addresses.every((address) => isBound(address)))
      return undefined;
    return this.#space.proof(info);
  }

  /** No VM may have its pages mapped. */
  close(): void {
    this.#owned.dispose();
  }
}

function readRegion(fd: number, index: number): Region {
  const { size } = abi.vfio_region_info;
  const info = new StructMemory(abi.vfio_region_info, REGION_INFO_ROOM - size);
  info.set('argsz', REGION_INFO_ROOM);
  info.set('index', index);
  // A device may lack a region, such as VGA's.
  if (sys.ioctl(fd, abi.VFIO_DEVICE_GET_REGION_INFO, info.address) < 0) return NO_REGION;
  return parseRegion(info.view);
}

function countInterrupts(fd: number, index: number): number {
  const info = new StructMemory(abi.vfio_irq_info);
  info.set('argsz', abi.vfio_irq_info.size);
  info.set('index', index);
  const asked = sys.ioctl(fd, abi.VFIO_DEVICE_GET_IRQ_INFO, info.address);
  const usable = (info.getNumber('flags') & abi.VFIO_IRQ_INFO_EVENTFD) !== 0;
  return asked < 0 || !usable ? 0 : info.getNumber('count');
}

function findBars(config: DataView, regions: readonly Region[]): Omit<PassedBar, 'mapped'>[] {
  const found: Omit<PassedBar, 'mapped'>[] = [];
  for (let index = 0; index < BARS; index++) {
    const { size, offset } = regions[index] ?? NO_REGION;
    if (size === 0) continue;
    const flags = config.getUint32(base_address.offset + index * 4, true);
    const isIo = (flags & pci.PCI_BASE_ADDRESS_SPACE_IO) !== 0;
    const is64 = !isIo && (flags & pci.PCI_BASE_ADDRESS_MEM_TYPE_64) !== 0;
    const prefetchable = !isIo && (flags & pci.PCI_BASE_ADDRESS_MEM_PREFETCH) !== 0;
    const kind = isIo ? 'io' : is64 ? 'memory64' : 'memory';
    found.push({ index, kind, prefetchable, size, offset });
    if (is64) index += 1;
  }
  return found;
}

function map(fd: number, offset: number, area: Area, stack: CleanupStack): MappedArea {
  const access = sys.PROT_READ | sys.PROT_WRITE;
  const address = sys.mmap(0, area.size, access, sys.MAP_SHARED, fd, offset + area.offset);
  if (address < 0) throw sys.callError(address, 'mmap', 'a BAR of a VFIO device');
  stack.defer(() => sys.munmap(address, area.size));
  return { ...area, address };
}
