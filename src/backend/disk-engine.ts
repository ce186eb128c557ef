/** How requests reach a disk: the contract that the block device's data half works with. */

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
  /** Starts what was asked for since the last call. */
  submit(): void;
  /** Takes the next completion; false when there is none yet. */
  reap(): boolean;
  /** Blocks until `reap` will find one; some request must be in flight. */
  wait(): void;
  /** No request may be in flight. */
  close(): void;
}
