/**
 * The addresses of a device behind an IOMMU: a reserved range of ours, in which guest RAM appears a second time
 * wherever the guest has mapped it. Rings, chains and iovecs are used in it like guest RAM itself.
 *
 * What is not mapped is a file without contents. System calls fail there (EFAULT), and a load or a store, which only
 * an access that was permitted before the unmapping can make, meets a page of zeroes (`FaultGuard`).
 */
import { CleanupStack, Closeable } from '../host/cleanup-stack.ts';
import { InternalError } from '../host/errors.ts';
import type { Fd } from '../host/fd.ts';
import { FaultGuard } from '../host/native-addon.ts';
import * as sys from '../host/syscall.ts';
import { ACCESS_WRITE, GuestMemory, type GuestMemoryShare, PAGE_SIZE } from './guest-memory.ts';
import { type IovaMapping, IovaTable, mapAllRam } from './iova-table.ts';
import { createMemoryFile } from './ram.ts';
import { GiB } from './ram-layout.ts';

const READ_WRITE = sys.PROT_READ | sys.PROT_WRITE;
/** Guests expect a device to reach at least what 32 bits address. */
const SIZE_MIN = 4 * GiB;

/** Bytes of addresses that devices behind the IOMMU have: all of RAM fits at its guest physical addresses. */
export function iovaSize({ regions }: GuestMemory): number {
  const top = Math.max(...regions.map(({ gpa, size }) => gpa + size));
  return Math.max(SIZE_MIN, Math.ceil(top / GiB) * GiB);
}

/** Where a piece of guest RAM is. */
export interface RamPlace {
  readonly fd: number;
  /** In the file. */
  readonly offset: number;
}

/** What an `IovaSpace` is made of, where that is not guest RAM of ours. */
export interface IovaSource {
  /** Bytes of addresses, whole GiB. */
  readonly size: number;
  /** Undefined unless one file has all of a piece. */
  placeOf(gpa: number, length: number): RamPlace | undefined;
}

function ownSource(ram: GuestMemory): IovaSource {
  const { fd } = ram.share;
  if (fd < 0) throw new InternalError('guest RAM behind an IOMMU needs a file');
  return {
    size: iovaSize(ram),
    placeOf: (gpa, length) => {
      const offset = ram.offset(gpa, length);
      return offset < 0 ? undefined : { fd, offset };
    },
  };
}

/** Owns the range. Addresses and lengths are whole pages, which the caller has checked, as well as the limits. */
export class IovaSpace extends Closeable {
  readonly share: GuestMemoryShare;
  /** This thread's view. */
  readonly memory: GuestMemory;
  /** Guest RAM. */
  readonly ram: GuestMemory;
  /** What is mapped. */
  readonly table: IovaTable = new IovaTable();
  readonly #source: IovaSource;
  readonly #pages: Uint8Array;
  readonly #nothing: Fd;
  readonly #owned: CleanupStack;

  /**
   * Nothing is mapped yet.
   * @param ram guest RAM, with a file unless there is a source
   * @throws HostError when the host has no room
   */
  constructor(ram: GuestMemory, source: IovaSource = ownSource(ram)) {
    super();
    this.ram = ram;
    this.#source = source;
    const { size } = source;
    const what = `${size / GiB} GiB of addresses behind the IOMMU`;
    using stack = new CleanupStack();
    this.#nothing = stack.use(createMemoryFile('nodevmm-unmapped', 0, what));
    const mapped = sys.mmap(0, size, READ_WRITE, sys.MAP_SHARED, this.#nothing.fd, 0);
    const address = sys.check(mapped, 'mmap', what);
    stack.defer(() => sys.munmap(address, size));
    stack.use(new FaultGuard(address, size));
    const pages = new SharedArrayBuffer(size / PAGE_SIZE);
    this.#pages = new Uint8Array(pages);
    this.share = { fd: -1, address, size, pages };
    this.memory = new GuestMemory(this.share);
    stack.defer(() => this.memory.detach());
    this.#owned = stack.move();
  }

  /**
   * Shows a piece of guest RAM at an address.
   * @param access ACCESS_ bits
   * @returns false when the host has no room for another mapping
   */
  map(address: number, gpa: number, length: number, access: number): boolean {
    const place = this.#source.placeOf(gpa, length);
    if (place === undefined) throw new InternalError('only guest RAM can be mapped');
    // A page that may not be written stays so for a store that was permitted before: it gets a copy.
    const kind =
      (access & ACCESS_WRITE) === 0 ? sys.MAP_PRIVATE | sys.MAP_NORESERVE : sys.MAP_SHARED;
    const flags = kind | sys.MAP_FIXED;
    const { fd, offset } = place;
    const at = this.share.address + address;
    if (access !== 0 && sys.mmap(at, length, READ_WRITE, flags, fd, offset) < 0) return false;
    // After the mapping: another thread that sees the permission uses it.
    this.#permit(address, length, access);
    this.table.add({ address, length, gpa, access });
    return true;
  }

  /** Takes away what is mapped in a range; what others serve is over once `table` is settled. */
  unmap(address: number, length: number): void {
    this.#permit(address, length, 0);
    this.table.remove(address, length);
    const flags = sys.MAP_SHARED | sys.MAP_FIXED;
    const at = this.share.address + address;
    const result = sys.mmap(at, length, READ_WRITE, flags, this.#nothing.fd, address);
    sys.check(result, 'mmap', 'the end of a mapping behind the IOMMU');
  }

  /** Takes away everything. */
  clear(): void {
    this.unmap(0, this.share.size);
  }

  /** Shows all guest RAM at its guest physical addresses. */
  bypass(): void {
    if (mapAllRam(this, this.ram)) return;
    throw new InternalError('the host has no room for a mapping of guest RAM');
  }

  /** As `IovaTable.settled`. */
  settled(): Promise<unknown> | undefined {
    return this.table.settled();
  }

  /** Host address of what is mapped. @throws InternalError unless guest RAM has all of it */
  hostAddress({ gpa, length }: IovaMapping): number {
    const offset = this.ram.offset(gpa, length);
    if (offset < 0) throw new InternalError('only guest RAM can be mapped');
    return this.ram.address + offset;
  }

  /** Unmaps; every thread must have ended its use before. */
  close(): void {
    this.#owned.dispose();
  }

  #permit(address: number, length: number, access: number): void {
    const first = address / PAGE_SIZE;
    this.#pages.fill(access, first, first + length / PAGE_SIZE);
  }
}
