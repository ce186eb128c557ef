/**
 * The io_uring engine: requests of a batch go to the kernel with one system call, and complete in
 * any order.
 *
 * HOT: bench/groups/device.ts.
 */

import { EOPNOTSUPP } from '../abi/errno.ts';
import {
  IORING_FSYNC_DATASYNC,
  IORING_OP_FALLOCATE,
  IORING_OP_FSYNC,
  IORING_OP_READV,
  IORING_OP_WRITEV,
} from '../abi/io-uring.ts';
import { CleanupStack } from '../host/cleanup-stack.ts';
import { HostError } from '../host/errors.ts';
import { IoUring } from '../host/io-uring.ts';
import * as sys from '../host/syscall.ts';
import {
  type DiskEngine,
  type DiskEngineOptions,
  IN_FLIGHT,
  RWF_DSYNC,
  SyncDisk,
  zeroMode,
} from './disk-engine.ts';

/** Requests that one system call carries; more are handed over in several. */
const MAX_BATCH = 256;
/**
 * A driver that sends so few at a time is better served by a read of its own, if the page cache
 * holds the data: 481,000 instead of 362,000 reads per second at depth 1.
 */
const SMALL_BATCH = 2;

const RWF_NOWAIT = 8;

function powerOfTwo(atLeast: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(atLeast, 2)));
}

/** A disk behind an io_uring. */
export class RingDisk implements DiskEngine {
  readonly zeroesAddress: number;
  readonly zeroesLength: number;
  readonly completionFd: number;
  token = 0;
  result = 0;
  readonly #ring: IoUring;
  /** For what io_uring has no operation for. */
  readonly #sync: SyncDisk;
  readonly #blockDevice: boolean;
  readonly #fd: number;
  /** Requests since the last `submit`, and before it. */
  #batch = 0;
  #lastBatch = 0;
  #tryCache: boolean;

  /**
   * @param depth the most requests that will be in flight
   * @throws HostError when the host does not permit io_uring
   */
  constructor(options: DiskEngineOptions, depth: number) {
    const completions = powerOfTwo(depth);
    using stack = new CleanupStack();
    this.#ring = stack.use(new IoUring(Math.min(completions, MAX_BATCH), completions));
    this.#blockDevice = options.blockDevice;
    this.#fd = options.fd;
    this.#tryCache = !options.direct;
    this.#sync = new SyncDisk(options);
    stack.move();
    this.completionFd = this.#ring.fd;
    this.zeroesAddress = this.#sync.zeroesAddress;
    this.zeroesLength = this.#sync.zeroesLength;
  }

  read(token: number, iovec: number, count: number, offset: number): number {
    if (this.#batch++ === 0 && this.#lastBatch <= SMALL_BATCH && this.#tryCache) {
      const result = sys.preadv2(this.#fd, iovec, count, offset, RWF_NOWAIT);
      if (result >= 0) return result;
      if (result === -EOPNOTSUPP) this.#tryCache = false;
    }
    this.#ring.queue(IORING_OP_READV, this.#fd, iovec, count, offset, 0, token);
    return IN_FLIGHT;
  }

  write(token: number, iovec: number, count: number, offset: number, stable: boolean): number {
    this.#batch++;
    this.#ring.queue(
      IORING_OP_WRITEV,
      this.#fd,
      iovec,
      count,
      offset,
      stable ? RWF_DSYNC : 0,
      token,
    );
    return IN_FLIGHT;
  }

  flush(token: number): number {
    this.#ring.queue(IORING_OP_FSYNC, this.#fd, 0, 0, 0, IORING_FSYNC_DATASYNC, token);
    return IN_FLIGHT;
  }

  flushNow(): number {
    return this.#sync.flushNow();
  }

  discard(token: number, offset: number, length: number): number {
    if (this.#blockDevice) return this.#sync.discard(token, offset, length);
    return this.zero(token, offset, length, true);
  }

  zero(token: number, offset: number, length: number, unmap: boolean): number {
    this.#ring.queue(IORING_OP_FALLOCATE, this.#fd, length, zeroMode(unmap), offset, 0, token);
    return IN_FLIGHT;
  }

  submit(): void {
    if (this.#batch > 0) {
      this.#lastBatch = this.#batch;
      this.#batch = 0;
    }
    this.#ring.submit();
  }

  reap(): boolean {
    if (!this.#ring.reap()) return false;
    this.token = this.#ring.userData;
    this.result = this.#ring.result;
    return true;
  }

  wait(): void {
    this.#ring.wait();
  }

  close(): void {
    this.#ring.close();
    this.#sync.close();
  }
}

/**
 * Opens a disk's engine.
 * @param depth the most requests that will be in flight
 * @param log gets one line when `auto` cannot have io_uring
 * @throws HostError when io_uring was requested and the host does not permit it
 */
export function openDiskEngine(
  options: DiskEngineOptions,
  depth: number,
  log: (text: string) => void,
): DiskEngine {
  if (options.engine === 'sync') return new SyncDisk(options);
  try {
    return new RingDisk(options, depth);
  } catch (error) {
    if (options.engine === 'io_uring' || !(error instanceof HostError)) throw error;
    log(`the disk is served without io_uring: ${error.message}`);
    return new SyncDisk(options);
  }
}

/** Throws now what `openDiskEngine` would throw later. @throws HostError */
export function probeDiskEngine(options: DiskEngineOptions): void {
  if (options.engine === 'io_uring') new RingDisk(options, 2).close();
}
