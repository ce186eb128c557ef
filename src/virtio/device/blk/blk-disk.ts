/** The data half's view of a block device's disk. */
import { VIRTIO_BLK_ID_BYTES } from '../../../abi/virtio-blk.ts';
import type { DiskEngineOptions } from '../../../backend/disk-engine.ts';
import type { GuestMemory } from '../../../memory/guest-memory.ts';

/**
 * Bytes that may be in flight on a disk: the most that a stop waits for. A longer request goes
 * alone, and a stop gives it back to its queue.
 */
export const MAX_WEIGHT = 32 * 2 ** 20;
/** The most segments of a discard or write zeroes request, and sectors in each: MAX_WEIGHT. */
export const MAX_RANGE_SEGMENTS = 32;
export const MAX_RANGE_SECTORS = 2 ** 16;

/** Options of the data half; a plain, cloneable message. */
export interface BlkHandlerOptions {
  readonly disk: DiskEngineOptions;
  /** Bytes, a multiple of 512. */
  readonly size: number;
  /** Bytes in the file: up to 511 fewer than `size` when it is read-only. */
  readonly fileSize: number;
  /** Two BigInt64: `size` and `fileSize` as they are since the disk grew; 0: it did not. */
  readonly grown?: SharedArrayBuffer;
  readonly readOnly: boolean;
  /** What VIRTIO_BLK_T_GET_ID returns: at most 20 ASCII characters. */
  readonly id: string;
  /** An Int32: the configuration's `writeback` field as the driver last wrote it. */
  readonly writeback: SharedArrayBuffer;
  /**
   * Segments of the longest request by `seg_max`, including header and status. Linux puts as many into
   * an indirect table even when it, or the vhost-user frontend, made the queue smaller.
   */
  readonly chainLength?: number;
}

/** The disk during one activation. HOT. */
export class BlkDisk {
  readonly memory: GuestMemory;
  /** As of the last request past it. */
  fileSize: number;
  readonly readOnly: boolean;
  readonly direct: boolean;
  /** The driver negotiated these requests. */
  readonly discard: boolean;
  readonly writeZeroes: boolean;
  /** The queues are about to be released. */
  stopping = false;
  /** The engine's calls block. */
  blocks = false;
  readonly id = new Uint8Array(VIRTIO_BLK_ID_BYTES);
  #size: number;
  readonly #grown: BigInt64Array | undefined;
  readonly #writeback: Int32Array;
  readonly #flushes: boolean;
  readonly #toggles: boolean;
  readonly #isInterrupted: () => boolean;

  /**
   * @param flushes VIRTIO_BLK_F_FLUSH was negotiated
   * @param toggles VIRTIO_BLK_F_CONFIG_WCE was negotiated
   * @param isInterrupted as `HandlerContext.isInterrupted`
   */
  constructor(
    memory: GuestMemory,
    options: BlkHandlerOptions,
    negotiated: { flushes: boolean; toggles: boolean; discard: boolean; writeZeroes: boolean },
    isInterrupted: () => boolean,
  ) {
    this.memory = memory;
    this.#size = options.size;
    this.fileSize = options.fileSize;
    this.#grown = options.grown && new BigInt64Array(options.grown);
    this.#look();
    this.readOnly = options.readOnly;
    this.direct = options.disk.direct;
    this.discard = negotiated.discard;
    this.writeZeroes = negotiated.writeZeroes;
    this.id.set(Buffer.from(options.id, 'latin1').subarray(0, VIRTIO_BLK_ID_BYTES));
    this.#writeback = new Int32Array(options.writeback);
    this.#flushes = negotiated.flushes;
    this.#toggles = negotiated.toggles;
    this.#isInterrupted = isInterrupted;
  }

  get size(): number {
    return this.#size;
  }

  /** Whether the disk reaches that far, perhaps since a moment ago. */
  reaches(end: number): boolean {
    if (end <= this.#size) return true;
    this.#look();
    return end <= this.#size;
  }

  #look(): void {
    const grown = this.#grown;
    if (grown === undefined) return;
    const size = Number(Atomics.load(grown, 0));
    if (size === 0) return;
    this.fileSize = Number(Atomics.load(grown, 1));
    this.#size = size;
  }

  /**
   * Whether a request is left unfinished. Where calls block, none was taken after it; where they do
   * not, others may have been, and only one that goes alone can be given back.
   * @param enough it has had its turn
   */
  parks(weight: number, enough: boolean): boolean {
    if (this.stopping) return weight > MAX_WEIGHT;
    return this.blocks && (enough || this.#isInterrupted());
  }

  /**
   * §5.2.6.2: a write is on stable storage when it completes, if the driver cannot flush, or has
   * switched `writeback` off.
   */
  writethrough(): boolean {
    return !this.#flushes || (this.#toggles && Atomics.load(this.#writeback, 0) === 0);
  }
}
