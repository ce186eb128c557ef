/** The segments of a discard or write zeroes request (virtio 1.3 §5.2.6), one after another. */
import { EOPNOTSUPP } from '../../../abi/errno.ts';
import {
  SECTOR_SIZE,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
  virtio_blk_discard_write_zeroes,
} from '../../../abi/virtio-blk.ts';
import type { DiskEngine } from '../../../backend/disk-engine.ts';
import type { DescriptorChain } from '../../queue/descriptor-chain.ts';
import { type BlkDisk, MAX_RANGE_SECTORS, MAX_RANGE_SEGMENTS } from './blk-disk.ts';

const SEGMENT_SIZE = virtio_blk_discard_write_zeroes.size;
const SEGMENT_SECTORS = virtio_blk_discard_write_zeroes.num_sectors.offset;
const SEGMENT_FLAGS = virtio_blk_discard_write_zeroes.flags.offset;

/** Takes a request from segment to segment. */
export class BlkRanges {
  readonly #chain: DescriptorChain;
  readonly #disk: BlkDisk;
  readonly #engine: DiskEngine;
  readonly #token: number;
  readonly #segments = new Uint8Array(MAX_RANGE_SEGMENTS * SEGMENT_SIZE);
  readonly #view = new DataView(this.#segments.buffer);
  #discard = false;
  #count = 0;
  #current = 0;
  /** What is left of the current segment, in bytes. */
  #position = 0;
  #remaining = 0;
  /** The disk has no zeroing operation: zeroes are written. */
  #writing = false;

  constructor(chain: DescriptorChain, disk: BlkDisk, engine: DiskEngine, token: number) {
    this.#chain = chain;
    this.#disk = disk;
    this.#engine = engine;
    this.#token = token;
  }

  /**
   * Takes a snapshot of all segments and checks them, before any is executed.
   * @param start where they start in the chain's readable part
   * @returns the request's status, or -1 when there is work to do
   */
  begin(type: number, start: number): number {
    this.#discard = type === VIRTIO_BLK_T_DISCARD;
    if (!(this.#discard ? this.#disk.discard : this.#disk.writeZeroes)) return VIRTIO_BLK_S_UNSUPP;
    const length = this.#chain.readableLength - start;
    if (length === 0 || length % SEGMENT_SIZE !== 0 || length > this.#segments.length) {
      return VIRTIO_BLK_S_IOERR;
    }
    this.#chain.read(start, this.#segments.subarray(0, length));
    this.#count = length / SEGMENT_SIZE;
    for (let i = 0; i < this.#count; i++) {
      const status = this.#check(i);
      if (status !== VIRTIO_BLK_S_OK) return status;
    }
    this.#current = -1;
    return this.#next() ? -1 : VIRTIO_BLK_S_OK;
  }

  /** All that the segments cover. */
  get bytes(): number {
    let sectors = 0;
    for (let i = 0; i < this.#count; i++) sectors += this.#sectors(i);
    return sectors * SECTOR_SIZE;
  }

  /** Passes the current segment, or a part of it, to the engine. */
  issue(): number {
    const engine = this.#engine;
    if (this.#writing) return this.#writeZeroes();
    if (this.#discard) return engine.discard(this.#token, this.#position, this.#remaining);
    return engine.zero(this.#token, this.#position, this.#remaining, this.#unmap(this.#current));
  }

  /** Processes the engine's result. Returns the request's status, or -1 when there is more to do. */
  absorb(result: number): number {
    if (this.#writing) {
      if (result <= 0) return VIRTIO_BLK_S_IOERR;
      this.#position += result;
      this.#remaining -= result;
      if (this.#remaining > 0) return -1;
    } else if (result === -EOPNOTSUPP) {
      if (this.#discard) return VIRTIO_BLK_S_UNSUPP;
      this.#writing = true;
      return -1;
    } else if (result < 0) {
      return VIRTIO_BLK_S_IOERR;
    }
    return this.#next() ? -1 : VIRTIO_BLK_S_OK;
  }

  /** The chain's first iovec is no longer needed, and from now on holds what is written. */
  #writeZeroes(): number {
    const engine = this.#engine;
    const { iovec, iovecAddress } = this.#chain;
    iovec[0] = engine.zeroesAddress >>> 0;
    iovec[1] = (engine.zeroesAddress / 2 ** 32) >>> 0;
    iovec[2] = Math.min(this.#remaining, engine.zeroesLength);
    iovec[3] = 0;
    return engine.write(this.#token, iovecAddress, 1, this.#position, false);
  }

  #next(): boolean {
    this.#writing = false;
    while (++this.#current < this.#count) {
      this.#position = this.#sector(this.#current) * SECTOR_SIZE;
      this.#remaining = this.#sectors(this.#current) * SECTOR_SIZE;
      if (this.#remaining > 0) return true;
    }
    return false;
  }

  /** §5.2.6.2: unknown flags, and unmap in a discard, are unsupported. */
  #check(segment: number): number {
    const flags = this.#view.getUint32(segment * SEGMENT_SIZE + SEGMENT_FLAGS, true);
    const known = this.#discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    if ((flags & ~known) !== 0) return VIRTIO_BLK_S_UNSUPP;
    const sectors = this.#sectors(segment);
    const end = (this.#sector(segment) + sectors) * SECTOR_SIZE;
    const fits = sectors <= MAX_RANGE_SECTORS && this.#disk.reaches(end);
    return fits ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
  }

  #sector(segment: number): number {
    const at = segment * SEGMENT_SIZE;
    return this.#view.getUint32(at + 4, true) * 2 ** 32 + this.#view.getUint32(at, true);
  }

  #sectors(segment: number): number {
    return this.#view.getUint32(segment * SEGMENT_SIZE + SEGMENT_SECTORS, true);
  }

  #unmap(segment: number): boolean {
    const flags = this.#view.getUint32(segment * SEGMENT_SIZE + SEGMENT_FLAGS, true);
    return this.#disk.discard && (flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) !== 0;
  }
}
