/**
 * One request of a block device (virtio 1.3 §5.2.6), from its descriptor chain to its status byte.
 * The layout is free (§2.6.4): header, data and status may be split over descriptors in any way.
 *
 * HOT: bench/groups/device.ts. Data never passes through JavaScript: the engine gets the chain's own
 * iovecs, less the header in front and the status byte at the end.
 */
import { EAGAIN, EINTR, EINVAL } from '../../../abi/errno.ts';
import {
  SECTOR_SIZE,
  VIRTIO_BLK_ID_BYTES,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
  virtio_blk_req,
} from '../../../abi/virtio-blk.ts';
import { BounceBuffer, type DiskEngine, IN_FLIGHT } from '../../../backend/disk-engine.ts';
import { DescriptorChain } from '../../queue/descriptor-chain.ts';
import type { BlkDisk } from './blk-disk.ts';
import { BlkRanges } from './blk-ranges.ts';

/** `start` or `resume`: the engine holds the request. */
export const REQUEST_PENDING = 0;
/** `prepare`: the request is valid; `start` it. */
export const REQUEST_READY = 2;
/** `start` or `resume`: it was left unfinished; `start` continues, or the queue gets it back. */
export const REQUEST_PARKED = 3;
/** The request is over; its status byte is written. */
export const REQUEST_DONE = 1;
/** The chain has no room for a status byte. */
export const REQUEST_MALFORMED = -1;

const HEADER_SIZE = virtio_blk_req.size;
const SECTOR_LOW = virtio_blk_req.sector.offset;
const SECTOR_HIGH = SECTOR_LOW + 4;

/** UIO_MAXIOV: the most iovecs that a system call takes. */
const MAX_IOVECS = 1024;
/**
 * Bytes that one engine call moves, of a request more than half again as long: a call cannot be
 * interrupted earlier. Linux's own are up to 1.25 MiB.
 */
const PIECE = 2 ** 20;
const WHOLE = PIECE * 1.5;
/** Calls of a blocking engine, before other queues and events get their turn. */
const MAX_CALLS = 16;
/** How many times in a row a call may be retried before its request fails. */
const RETRIES = 64;

const PHASE_READ = 0;
const PHASE_WRITE = 1;
const PHASE_RANGES = 2;
const PHASE_FLUSH = 3;

const header = new Uint8Array(HEADER_SIZE);
const headerView = new DataView(header.buffer);

/** A reusable slot for one request. */
export class BlkRequest {
  /** Identifies the request in the engine's completions. */
  readonly token: number;
  /** Index of its queue. */
  readonly queue: number;
  readonly chain: DescriptorChain;
  /** The length for `Virtqueue.push`, once done. */
  written = 0;
  /** Bytes that it moves on the disk, from end to end. */
  weight = 0;
  readonly #disk: BlkDisk;
  readonly #engine: DiskEngine;
  #ranges: BlkRanges | null = null;
  /** O_DIRECT refused the guest's own buffers: data goes through an aligned one. */
  #bounce: BounceBuffer | null = null;
  #bouncing = false;
  #phase = PHASE_READ;
  /** Where the status byte goes, an offset in guest RAM. */
  #status = 0;
  /** Data: iovecs `first` to `end`, their position on the disk, and bytes still to be moved. */
  #first = 0;
  #end = 0;
  #position = 0;
  #remaining = 0;
  /** Bytes written to the start of the writable part. */
  #filled = 0;
  /** Consecutive calls that returned with nothing done. */
  #retries = 0;
  /** The iovec that a piece ends in, and its own length; -1 for none. */
  #cutIovec = -1;
  #cutLength = 0;
  #calls = 0;

  constructor(token: number, queue: number, disk: BlkDisk, engine: DiskEngine, size: number) {
    this.token = token;
    this.queue = queue;
    this.chain = new DescriptorChain(disk.memory, size);
    this.#disk = disk;
    this.#engine = engine;
  }

  /** Checks the chain that was popped. Returns a REQUEST_ number. */
  prepare(): number {
    const { chain } = this;
    this.weight = 0;
    if (chain.writableLength === 0) return REQUEST_MALFORMED;
    this.#findStatus();
    this.#filled = 0;
    this.#retries = 0;
    if (chain.readableLength < HEADER_SIZE) return this.#finish(VIRTIO_BLK_S_IOERR);
    const at = chain.offset[0] as number;
    if ((chain.length[0] as number) >= HEADER_SIZE) {
      const { memory } = this.#disk;
      const sector = memory.readU32(at + SECTOR_HIGH) * 2 ** 32 + memory.readU32(at + SECTOR_LOW);
      return this.#dispatch(memory.readU32(at), sector);
    }
    chain.read(0, header);
    const high = headerView.getUint32(SECTOR_HIGH, true);
    const sector = high * 2 ** 32 + headerView.getUint32(SECTOR_LOW, true);
    return this.#dispatch(headerView.getUint32(0, true), sector);
  }

  /** Continues after the engine reported the request's `result`. Returns a REQUEST_ number. */
  resume(result: number): number {
    const status = this.#absorb(result);
    if (status >= 0) return this.#finish(status);
    return this.#disk.parks(this.weight, false) ? REQUEST_PARKED : this.start();
  }

  /** Starts it in the engine, from its current position. Returns a REQUEST_ number. */
  start(): number {
    this.#calls = 0;
    return this.#run();
  }

  #dispatch(type: number, sector: number): number {
    const { chain } = this;
    switch (type) {
      case VIRTIO_BLK_T_IN: {
        // The status byte is not data: the last iovec excludes it.
        const last = this.#end - 1;
        (chain.iovec[last * 4 + 2] as number) -= 1;
        this.#first = chain.readable;
        return this.#transfer(PHASE_READ, sector, chain.writableLength - 1);
      }
      case VIRTIO_BLK_T_OUT:
        if (this.#disk.readOnly) return this.#finish(VIRTIO_BLK_S_IOERR);
        this.#first = 0;
        this.#end = chain.readable;
        this.#first = this.chain.cutIovecs(this.#first, HEADER_SIZE);
        return this.#transfer(PHASE_WRITE, sector, chain.readableLength - HEADER_SIZE);
      case VIRTIO_BLK_T_FLUSH:
        this.#phase = PHASE_FLUSH;
        return REQUEST_READY;
      case VIRTIO_BLK_T_GET_ID:
        return this.#getId();
      case VIRTIO_BLK_T_DISCARD:
      case VIRTIO_BLK_T_WRITE_ZEROES:
        return this.#beginRanges(type);
      default:
        return this.#finish(VIRTIO_BLK_S_UNSUPP);
    }
  }

  #transfer(phase: number, sector: number, length: number): number {
    const position = sector * SECTOR_SIZE;
    // Sectors above 2^53 are rounded, and far beyond any capacity.
    if (length % SECTOR_SIZE !== 0 || !this.#disk.reaches(position + length)) {
      return this.#finish(VIRTIO_BLK_S_IOERR);
    }
    if (length === 0) return this.#finish(VIRTIO_BLK_S_OK);
    this.#phase = phase;
    this.#position = position;
    this.#remaining = length;
    this.weight = length;
    this.#bouncing = false;
    return REQUEST_READY;
  }

  /** §5.2.6: NUL-padded, without a terminator when it is 20 bytes long. */
  #getId(): number {
    const room = Math.min(this.chain.writableLength - 1, VIRTIO_BLK_ID_BYTES);
    this.#filled = this.chain.write(0, this.#disk.id.subarray(0, room));
    return this.#finish(VIRTIO_BLK_S_OK);
  }

  #beginRanges(type: number): number {
    if (this.#disk.readOnly) return this.#finish(VIRTIO_BLK_S_IOERR);
    this.#ranges ??= new BlkRanges(this.chain, this.#disk, this.#engine, this.token);
    const status = this.#ranges.begin(type, HEADER_SIZE);
    if (status >= 0) return this.#finish(status);
    this.#phase = PHASE_RANGES;
    this.weight = this.#ranges.bytes;
    return REQUEST_READY;
  }

  /** Works until the engine holds the request, it is done, or others need their turn. */
  #run(): number {
    for (;;) {
      const result = this.#issue();
      if (result === IN_FLIGHT) return REQUEST_PENDING;
      const status = this.#absorb(result);
      if (status >= 0) return this.#finish(status);
      if (this.#disk.parks(this.weight, ++this.#calls === MAX_CALLS)) return REQUEST_PARKED;
    }
  }

  #issue(): number {
    const engine = this.#engine;
    if (this.#phase <= PHASE_WRITE) {
      if (this.#bouncing) return this.#issueBounced(this.#bounce as BounceBuffer);
      const iovec = this.chain.iovecAddress + this.#first * 16;
      const count =
        this.#remaining > WHOLE ? this.#cut() : Math.min(this.#end - this.#first, MAX_IOVECS);
      if (this.#phase === PHASE_READ) return engine.read(this.token, iovec, count, this.#position);
      return engine.write(this.token, iovec, count, this.#position, this.#disk.writethrough());
    }
    if (this.#phase === PHASE_FLUSH) return engine.flush(this.token);
    return (this.#ranges as BlkRanges).issue();
  }

  /** Ends the iovecs after a piece. Returns how many it has. */
  #cut(): number {
    const { iovec } = this.chain;
    const last = Math.min(this.#end, this.#first + MAX_IOVECS);
    let left = PIECE;
    let at = this.#first;
    for (; at < last && left > 0; at++) {
      const length = iovec[at * 4 + 2] as number;
      if (length > left) {
        this.#cutIovec = at;
        this.#cutLength = length;
        iovec[at * 4 + 2] = left;
      }
      left -= length;
    }
    return at - this.#first;
  }

  #mend(): void {
    this.chain.iovec[this.#cutIovec * 4 + 2] = this.#cutLength;
    this.#cutIovec = -1;
  }

  /** Processes a result. Returns the request's status, or -1 when there is more to do. */
  #absorb(result: number): number {
    if (this.#cutIovec >= 0) this.#mend();
    if (result === -EINTR || result === -EAGAIN) {
      if (++this.#retries <= RETRIES) return -1;
      return VIRTIO_BLK_S_IOERR;
    }
    this.#retries = 0;
    switch (this.#phase) {
      case PHASE_FLUSH:
        return result < 0 ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
      case PHASE_RANGES: {
        const status = (this.#ranges as BlkRanges).absorb(result);
        if (status !== VIRTIO_BLK_S_OK || !this.#disk.writethrough()) return status;
        this.#phase = PHASE_FLUSH;
        return -1;
      }
      default:
        if (result < 0) return this.#refused(result);
        if (result === 0) return this.#endOfFile();
        if (this.#bouncing && this.#phase === PHASE_READ) {
          const { bytes } = this.#bounce as BounceBuffer;
          this.chain.write(this.#filled, bytes.subarray(0, result));
        }
        this.#remaining -= result;
        this.#position += result;
        if (this.#phase === PHASE_READ) this.#filled += result;
        if (this.#remaining === 0) return VIRTIO_BLK_S_OK;
        if (this.#position === this.#disk.fileSize) return this.#endOfFile();
        if (!this.#bouncing) this.#first = this.chain.cutIovecs(this.#first, result);
        return -1;
    }
  }

  /** EINVAL is how O_DIRECT rejects buffers that are not aligned for the medium. */
  #refused(result: number): number {
    if (result !== -EINVAL || this.#bouncing || !this.#disk.direct) return VIRTIO_BLK_S_IOERR;
    this.#bounce ??= new BounceBuffer();
    this.#bouncing = true;
    return -1;
  }

  #issueBounced(bounce: BounceBuffer): number {
    const engine = this.#engine;
    const length = Math.min(this.#remaining, bounce.bytes.length);
    const iovec = bounce.iovec(length);
    if (this.#phase === PHASE_READ) return engine.read(this.token, iovec, 1, this.#position);
    const from = this.chain.readableLength - this.#remaining;
    this.chain.read(from, bounce.bytes.subarray(0, length));
    return engine.write(this.token, iovec, 1, this.#position, this.#disk.writethrough());
  }

  /** The file ends before the disk does: only a read-only file's last sector may lack bytes. */
  #endOfFile(): number {
    const { fileSize, size } = this.#disk;
    if (this.#phase !== PHASE_READ || this.#position !== fileSize || fileSize === size) {
      return VIRTIO_BLK_S_IOERR;
    }
    this.#filled += this.chain.write(this.#filled, new Uint8Array(this.#remaining));
    return VIRTIO_BLK_S_OK;
  }

  /** §5.2.6: the status is the last writable byte. Sets `end` after its iovec. */
  #findStatus(): void {
    const { chain } = this;
    let last = chain.count - 1;
    while (chain.length[last] === 0) last--;
    this.#end = last + 1;
    this.#status = (chain.offset[last] as number) + (chain.length[last] as number) - 1;
  }

  #finish(status: number): number {
    const { chain } = this;
    this.#disk.memory.writeU8(this.#status, status);
    // §2.7.8.2: the length counts from the start of the writable part, and may be too low but
    // never too high. So the status byte counts only where all bytes before it were written.
    const filled = this.#filled === chain.writableLength - 1;
    this.written = filled ? chain.writableLength : this.#filled;
    return REQUEST_DONE;
  }
}
