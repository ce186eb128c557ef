/** How requests reach a disk: the contract of disk engines, and the sync engine. */

import { NativeMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';

/** Result of a request that completes later, through `reap`; below every negative errno. */
export const IN_FLIGHT = -0x10000;

/** What a data half needs to open an engine; a plain, cloneable message. */
export interface DiskEngineOptions {
  /** The disk's descriptor; stays its opener's. */
  readonly fd: number;
  /** `auto`: io_uring where the host permits it, else sync with a line in the log. */
  readonly engine: 'auto' | 'sync' | 'io_uring';
  /** It is a block device and not a file. */
  readonly blockDevice: boolean;
  /** It was opened with O_DIRECT. */
  readonly direct: boolean;
}

/**
 * Carries requests out. Each method returns the bytes moved (0 for flush and the like), a negative
 * errno, or IN_FLIGHT. Reads and writes may be short; 0 bytes mean the end of the file. HOT.
 */
export interface DiskEngine {
  /** Zeroed, page-aligned memory to write from; only to be read. */
  readonly zeroesAddress: number;
  readonly zeroesLength: number;
  /** Readable while completions wait; -1 for an engine that never answers IN_FLIGHT. */
  readonly completionFd: number;
  /** The token of the completion that `reap` took, and its result. */
  readonly token: number;
  readonly result: number;
  /**
   * @param token what `reap` returns for the request if it is IN_FLIGHT
   * @param iovec address of the iovec array, at most 1024 entries, which stays in place meanwhile
   * @param offset bytes from the start of the disk
   */
  read(token: number, iovec: number, count: number, offset: number): number;
  /** As `read`. @param stable the data is on stable storage when the write completes */
  write(token: number, iovec: number, count: number, offset: number, stable: boolean): number;
  /** Completed writes are on stable storage when it completes. */
  flush(token: number): number;
  /** As `flush`, and done when it returns. Returns 0 or a negative errno. */
  flushNow(): number;
  /** Gives up the contents of a range. -EOPNOTSUPP where the disk cannot. */
  discard(token: number, offset: number, length: number): number;
  /** Zeroes a range without data. @param unmap blocks may be given back. -EOPNOTSUPP as above. */
  zero(token: number, offset: number, length: number, unmap: boolean): number;
  /** Starts the requests since the last call. */
  submit(): void;
  /** Takes the next completion; false when there is none yet. */
  reap(): boolean;
  /** Blocks until `reap` will find one; some request must be in flight. */
  wait(): void;
  /** No request may be in flight. */
  close(): void;
}

export const RWF_DSYNC = 2;
export const FALLOC_FL_KEEP_SIZE = 1;
export const FALLOC_FL_PUNCH_HOLE = 2;
export const FALLOC_FL_ZERO_RANGE = 16;
const BLKDISCARD = 0x1277;
const ZEROES_LENGTH = 256 * 1024;

/** The fallocate(2) modes of `zero`. */
export function zeroMode(unmap: boolean): number {
  return FALLOC_FL_KEEP_SIZE | (unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
}

/**
 * The sync engine: each request is one system call, done when it returns.
 * HOT: bench/groups/device.ts.
 */
export class SyncDisk implements DiskEngine {
  readonly zeroesAddress: number;
  readonly zeroesLength = ZEROES_LENGTH;
  readonly completionFd: number = -1;
  token = 0;
  result = 0;
  readonly #fd: number;
  readonly #blockDevice: boolean;
  readonly #range = new NativeMemory(16);

  /** @throws HostError when memory is short */
  constructor(options: DiskEngineOptions) {
    this.#fd = options.fd;
    this.#blockDevice = options.blockDevice;
    this.zeroesAddress = sys.check(
      sys.mmap(0, ZEROES_LENGTH, sys.PROT_READ, sys.MAP_PRIVATE | sys.MAP_ANONYMOUS, -1, 0),
      'mmap',
      'zeroed memory',
    );
  }

  read(_token: number, iovec: number, count: number, offset: number): number {
    return sys.preadv(this.#fd, iovec, count, offset);
  }

  write(_token: number, iovec: number, count: number, offset: number, stable: boolean): number {
    return stable
      ? sys.pwritev2(this.#fd, iovec, count, offset, RWF_DSYNC)
      : sys.pwritev(this.#fd, iovec, count, offset);
  }

  flush(_token: number): number {
    return this.flushNow();
  }

  flushNow(): number {
    return sys.fdatasync(this.#fd);
  }

  discard(_token: number, offset: number, length: number): number {
    if (!this.#blockDevice) return sys.fallocate(this.#fd, zeroMode(true), offset, length);
    // A block device's PUNCH_HOLE promises zeroes, which not every device that discards can give.
    const range = this.#range.view;
    range.setBigUint64(0, BigInt(offset), true);
    range.setBigUint64(8, BigInt(length), true);
    return sys.ioctl(this.#fd, BLKDISCARD, this.#range.address);
  }

  zero(_token: number, offset: number, length: number, unmap: boolean): number {
    return sys.fallocate(this.#fd, zeroMode(unmap), offset, length);
  }

  submit(): void {}

  reap(): boolean {
    return false;
  }

  wait(): void {}

  close(): void {
    sys.munmap(this.zeroesAddress, ZEROES_LENGTH);
  }
}

/** Enough for any medium's blocks. */
const ALIGNMENT = 4096;
const LENGTH = 64 * 1024;
const IOVEC_SIZE = 16;

/** An aligned buffer for data whose own place O_DIRECT refuses, and the iovec that describes it. */
export class BounceBuffer {
  /** 64 KiB. */
  readonly bytes: Uint8Array;
  readonly #memory = new NativeMemory(LENGTH + ALIGNMENT);
  readonly #iovec = new NativeMemory(IOVEC_SIZE);

  constructor() {
    const over = this.#memory.address % ALIGNMENT;
    const skip = over === 0 ? 0 : ALIGNMENT - over;
    this.bytes = this.#memory.bytes.subarray(skip, skip + LENGTH);
    this.#iovec.view.setBigUint64(0, BigInt(this.#memory.address + skip), true);
  }

  /** Address of an iovec of the buffer's first `length` bytes. */
  iovec(length: number): number {
    this.#iovec.view.setBigUint64(8, BigInt(length), true);
    return this.#iovec.address;
  }
}
