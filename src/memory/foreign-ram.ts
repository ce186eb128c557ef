/** RAM of another program's guest: pieces of files that it shares, in one mapping of ours. */
import { fstatSync, statfsSync } from 'node:fs';
import { Closeable } from '../host/cleanup-stack.ts';
import { PeerError } from '../host/errors.ts';
import { FaultGuard } from '../host/native-addon.ts';
import * as sys from '../host/syscall.ts';
import type { GuestMemoryShare } from './guest-memory.ts';
import { GiB, type RamRegion } from './ram-layout.ts';
import { assignChunks } from './region-table.ts';

const PAGE_SIZE = 4096;
const HUGETLBFS_MAGIC = 0x958458f6;
/** More than any machine has; what is reserved for it are addresses only. */
const MOST_CHUNKS = 1024;

/** A region of the other program's guest. */
export interface ForeignRegion {
  readonly gpa: number;
  /** Bytes. */
  readonly size: number;
  /** Stays the caller's, who may close it after. */
  readonly fd: number;
  /** Where the region starts in the file. */
  readonly fileOffset: number;
  /** What we store there does not reach the file. Default false. */
  readonly readOnly?: boolean;
  /** It is memory of the kernel's behind a file without a size. Default false. */
  readonly fromKernel?: boolean;
}

const refuse = (why: string): PeerError =>
  new PeerError('E_MEMORY_TABLE', `the peer's memory table cannot be mapped: ${why}`);

/**
 * Owns the mapping. The other program may truncate a file under it: loads and stores of ours then
 * read zeroes, and `truncated` reports it.
 */
export class ForeignRam extends Closeable {
  readonly share: GuestMemoryShare;
  readonly #guards: FaultGuard[] = [];
  #mapped = true;

  /** @throws PeerError when the regions cannot be, HostError when the host cannot map them */
  constructor(given: readonly ForeignRegion[]) {
    super();
    const regions = [...given].sort((a, b) => a.gpa - b.gpa);
    const sizes = regions.map(checkedPageSize);
    const chunks = checkedChunks(regions);
    const size = chunks.size * GiB;
    const flags = sys.MAP_PRIVATE | sys.MAP_ANONYMOUS | sys.MAP_NORESERVE;
    const reserved = sys.mmap(0, size + GiB, sys.PROT_NONE, flags, -1, 0);
    const address = alignedUp(sys.check(reserved, 'mmap', 'addresses for guest memory'), GiB);
    trim(reserved, address, size);
    this.share = {
      fd: -1,
      address,
      size,
      regions: regions.map(({ gpa, size: bytes }) => ({
        gpa,
        size: bytes,
        offset: (chunks.get(Math.floor(gpa / GiB)) ?? 0) * GiB + (gpa % GiB),
      })),
    };
    try {
      this.share.regions?.forEach((region, i) => {
        const from = regions[i];
        if (from !== undefined) this.#map(address, region, from, sizes[i] ?? PAGE_SIZE);
      });
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** True once the other program has taken away memory that we touched. */
  get truncated(): boolean {
    return this.#guards.some((guard) => guard.faults > 0);
  }

  /** Unmaps; every thread must have ended its use before. */
  close(): void {
    if (!this.#mapped) return;
    this.#mapped = false;
    for (const guard of this.#guards) guard.close();
    sys.munmap(this.share.address, this.share.size);
  }

  #map(base: number, region: RamRegion, from: ForeignRegion, page: number): void {
    const head = from.fileOffset % page;
    const address = base + region.offset - head;
    if (address % page !== 0) {
      throw refuse(`0x${region.gpa.toString(16)} and its file offset differ within a page`);
    }
    const length = alignedUp(head + region.size, page);
    const access = sys.PROT_READ | sys.PROT_WRITE;
    const sharing = from.readOnly === true ? sys.MAP_PRIVATE : sys.MAP_SHARED;
    const flags = sharing | sys.MAP_FIXED | sys.MAP_NORESERVE;
    const result = sys.mmap(address, length, access, flags, from.fd, from.fileOffset - head);
    sys.check(result, 'mmap', `${region.size} bytes of a peer's guest memory`);
    this.#guards.push(new FaultGuard(address, length, page));
  }
}

/** Gives back what was reserved around the aligned range. */
function trim(reserved: number, address: number, size: number): void {
  if (address > reserved) sys.munmap(reserved, address - reserved);
  const rest = reserved + GiB - address;
  if (rest > 0) sys.munmap(address + size, rest);
}

const alignedUp = (value: number, alignment: number): number =>
  Math.ceil(value / alignment) * alignment;

/** Bytes of a page of the region's file. @throws PeerError when the file does not hold the region */
function checkedPageSize({ fd, size, fileOffset, gpa, fromKernel }: ForeignRegion): number {
  const where = `the region at 0x${gpa.toString(16)}`;
  if (size <= 0) throw refuse(`${where} is empty`);
  if (fromKernel === true) return PAGE_SIZE;
  const file = fstatSync(fd);
  if (!file.isFile()) throw refuse(`${where} has no file`);
  if (fileOffset + size > file.size) {
    throw refuse(`${where} ends at ${fileOffset + size} in a file of ${file.size} bytes`);
  }
  const { type, bsize } = statfsSync(`/proc/self/fd/${fd}`);
  return type === HUGETLBFS_MAGIC ? bsize : PAGE_SIZE;
}

/** @throws PeerError */
function checkedChunks(regions: readonly ForeignRegion[]): Map<number, number> {
  const total = regions.reduce((sum, { size }) => sum + Math.ceil(size / GiB) + 1, 0);
  if (total > MOST_CHUNKS) throw refuse(`it describes more than ${MOST_CHUNKS} GiB`);
  for (const [i, { gpa, size }] of regions.entries()) {
    const next = regions[i + 1];
    if (next !== undefined && gpa + size > next.gpa) {
      throw refuse(`regions overlap at 0x${next.gpa.toString(16)}`);
    }
  }
  return assignChunks(regions);
}
