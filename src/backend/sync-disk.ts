/**
 * The sync engine: each request is one system call, done when it returns.
 *
 * HOT: bench/groups/device.ts.
 */
import { NativeMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';
import type { DiskEngine, DiskEngineOptions } from './disk-engine.ts';

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

/** A disk behind preadv2(2), pwritev2(2), fdatasync(2) and fallocate(2). */
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
