/**
 * What passed devices reach by DMA: I/O page tables with the guest's RAM, by a container (container.ts) or by iommufd
 * (iommufd.ts). Devices that see it at its physical addresses share one; each behind the machine's IOMMU has its own,
 * with what the guest maps (dma-endpoint.ts).
 */
import { CleanupStack, Closeable } from '../host/cleanup-stack.ts';
import { UsageError } from '../host/errors.ts';
import type { Fd } from '../host/fd.ts';
import * as sys from '../host/syscall.ts';
import {
  ACCESS_READ,
  ACCESS_WRITE,
  GuestMemory,
  type GuestMemoryShare,
} from '../memory/guest-memory.ts';
import { MiB } from '../memory/ram-layout.ts';
import type { HostFunction } from './host-function.ts';
import type { HotResetInfo } from './hot-reset.ts';

const MADV_DONTFORK = 10;
const MADV_DOFORK = 11;

/** A stretch of guest RAM. */
export interface DmaRange {
  /** Where devices find it. */
  readonly iova: number;
  /** Where this process has it. */
  readonly address: number;
  /** Bytes. */
  readonly size: number;
  /** ACCESS_ bits. */
  readonly access: number;
}

/** All that a device may do with RAM. */
const READ_WRITE = ACCESS_READ | ACCESS_WRITE;

/** Closed with the last device that has a part in it. */
export abstract class DmaSpace extends Closeable {
  /** Closed with it, last first. */
  protected readonly owned = new CleanupStack();
  #maps = new CleanupStack();
  #devices = 0;
  #pinned = 0;

  /**
   * Opens a device, which then has a part in it. Each call takes one of `leave`.
   * @throws UsageError when this host has no VFIO, denies access, or something else has the device
   */
  open(pciFunction: HostFunction): Fd {
    try {
      const device = this.openDevice(pciFunction);
      this.#devices += 1;
      return device;
    } catch (error) {
      if (this.#devices === 0) this.close();
      throw error;
    }
  }

  /**
   * Lets the devices reach guest RAM, all of which is pinned until `close`.
   * @throws HostError when the kernel refuses
   */
  map(share: GuestMemoryShare): void {
    if (this.#pinned > 0 || this.#devices === 0) return;
    const memory = new GuestMemory(share);
    using maps = new CleanupStack();
    maps.use(keepFromChildren(memory));
    for (const { gpa, size, offset } of memory.regions) {
      const range = { iova: gpa, address: memory.address + offset, size, access: READ_WRITE };
      const [mapped, call] = this.mapRange(range);
      sys.check(mapped, call, `${size / MiB} MiB of guest RAM`, 'reduce the guest RAM');
      maps.defer(() => this.unmapRange(range));
    }
    this.#maps = maps.move();
    this.#pinned = memory.size;
  }

  /**
   * Lets the devices reach a piece of guest RAM, which is pinned until they no longer do.
   * @returns false when the kernel refuses
   */
  add(range: DmaRange): boolean {
    const [mapped] = this.mapRange(range);
    if (mapped < 0) return false;
    this.#pinned += range.size;
    return true;
  }

  /** Takes away what `add` added, as a whole. */
  remove(range: DmaRange): void {
    this.unmapRange(range);
    this.#pinned -= range.size;
  }

  /** Whether a device has a part in it. */
  get isOpen(): boolean {
    return this.#devices > 0;
  }

  /** Bytes of guest RAM that are locked. */
  get pinned(): number {
    return this.#pinned;
  }

  /** A device is closed; with the last one the space is. */
  leave(): void {
    this.#devices -= 1;
    if (this.#devices === 0) this.close();
  }

  close(): void {
    this.#maps.dispose();
    this.#pinned = 0;
    this.owned.dispose();
  }

  /** Files that prove to the kernel that all of a bus is ours; undefined when it is not. */
  abstract proof(info: HotResetInfo): readonly number[] | undefined;
  /** Opens a device and gives it these page tables. */
  protected abstract openDevice(pciFunction: HostFunction): Fd;
  /** @returns what the call returned, and its name */
  protected abstract mapRange(range: DmaRange): readonly [result: number, call: string];
  protected abstract unmapRange(range: DmaRange): void;
}

/** Child processes get no copies of pinned pages, which the kernel would make at each fork, until it is disposed. */
export function keepFromChildren({ address, size }: GuestMemory): Disposable {
  sys.madvise(address, size, MADV_DONTFORK);
  return { [Symbol.dispose]: () => sys.madvise(address, size, MADV_DOFORK) };
}

/** @param problem that it cannot be opened, and what it is */
export function notPermitted(path: string, problem: string): UsageError {
  return new UsageError('E_VFIO_PERMISSION', problem, `run as root, or "chown $USER ${path}"`);
}

/** @param module of the kernel, which has the switch */
export function noRemapping(module: string): UsageError {
  return new UsageError(
    'E_VFIO_IOMMU',
    'this IOMMU does not remap interrupts, so that a device could raise any of them',
    `for guests that you trust: echo 1 >/sys/module/${module}/parameters/allow_unsafe_interrupts`,
  );
}
