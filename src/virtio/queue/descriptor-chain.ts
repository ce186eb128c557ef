/**
 * One descriptor chain, snapshot by a queue's `pop` (virtio 1.3 §2.6, §2.7.5, §2.8.5): readable
 * segments first, then writable ones (§2.7.4.2), each checked to lie in guest RAM.
 *
 * HOT, measured by bench/groups/queue-walk.ts. One object is made once and refilled by each `pop`. The
 * segments are also laid out as an iovec array on demand, so that readv, writev and
 * io_uring move the data and JavaScript does not.
 */
import { NativeMemory } from '../../host/native-memory.ts';
import { CHUNK, type GuestMemory } from '../../memory/guest-memory.ts';
import {
  addressFault,
  FAULT_ADDRESS,
  FAULT_CHAIN_LOOP,
  FAULT_LENGTH,
  FAULT_READ_AFTER_WRITE,
} from './virtqueue.ts';

/** Bytes of a struct iovec: base, length. */
export const IOVEC_SIZE = 16;

/**
 * The most segments that a chain may have (§2.7.4.1 lets a device set a limit). It is the host's
 * IOV_MAX, and not the queue size: Linux drivers put more segments than the queue has descriptors
 * into an indirect table when the queue is small, although §2.7.5.3.1 forbids it, and other
 * devices take them up to this limit.
 */
export const MAX_SEGMENTS = 1024;

/** The longest chain (§2.7.5.2). */
const MAX_CHAIN_BYTES = 2 ** 32;

/** A chain's segments; filled by a virtqueue, read by a device. */
export class DescriptorChain {
  /** The argument of `push`. Opaque: neither an array index, nor unique when the driver cheats. */
  id = 0;
  /** Number of segments. */
  count = 0;
  /** How many of them, at the front, are device-readable. */
  readable = 0;
  /** Bytes in the readable segments, and in the writable ones. */
  readableLength = 0;
  writableLength = 0;
  /** Ring slots that the chain took: 1 on split queues, one for each descriptor on packed ones. */
  slots = 1;
  /** RAM offset of each segment, as `GuestMemory.offset` gave it. */
  readonly offset: Float64Array;
  /** Length of each segment in bytes. */
  readonly length: Float64Array;
  readonly capacity: number;
  readonly memory: GuestMemory;
  readonly #native: NativeMemory;
  readonly #iovec: Uint32Array;
  /** How many segments are in #iovec: 0 after a `pop`, then all. */
  #laidOut = 0;

  /**
   * @param capacity the most segments a chain may have; `pop` faults on longer ones. A device that
   *   keeps many chains and offers the driver its own limit (e.g. `seg_max`) may pass less.
   */
  constructor(memory: GuestMemory, capacity = MAX_SEGMENTS) {
    this.memory = memory;
    this.capacity = capacity;
    this.offset = new Float64Array(capacity);
    this.length = new Float64Array(capacity);
    this.#native = new NativeMemory(capacity * IOVEC_SIZE);
    this.#iovec = new Uint32Array(this.#native.bytes.buffer);
  }

  /** Empties the chain, before a queue fills it. */
  clear(): void {
    this.count = 0;
    this.readable = 0;
    this.readableLength = 0;
    this.writableLength = 0;
    this.slots = 1;
    this.#laidOut = 0;
  }

  /** As `clear` and one `add`, at half the cost: for a chain of one descriptor. */
  fill(low: number, high: number, bytes: number, writable: boolean): number {
    const chunk = this.memory.locate(low, high, bytes, writable);
    if (chunk < 0 || bytes === 0) {
      this.clear();
      return bytes === 0 ? 0 : addressFault(this.memory, FAULT_ADDRESS);
    }
    const length = bytes >>> 0;
    this.offset[0] = chunk * CHUNK + this.memory.position;
    this.length[0] = length;
    this.count = 1;
    this.readable = writable ? 0 : 1;
    this.readableLength = writable ? 0 : length;
    this.writableLength = writable ? length : 0;
    this.slots = 1;
    this.#laidOut = 0;
    return 0;
  }

  /**
   * Checks a descriptor's buffer and appends it. A buffer without bytes is left out: no clause
   * forbids it, and it names no memory. The numbers are signed 32-bit integers, bit for bit those of
   * the descriptor, so that none has to be allocated for the call.
   * @param low lower half of the guest physical address
   * @param high its upper half
   * @param bytes length
   * @returns 0, or the fault
   */
  add(low: number, high: number, bytes: number, writable: boolean): number {
    const at = this.count;
    if (!writable && at !== this.readable) return FAULT_READ_AFTER_WRITE;
    const length = bytes >>> 0;
    if (length === 0) return 0;
    if (at === this.capacity) return FAULT_CHAIN_LOOP;
    if (this.readableLength + this.writableLength + length > MAX_CHAIN_BYTES) return FAULT_LENGTH;
    const chunk = this.memory.locate(low, high, bytes, writable);
    if (chunk < 0) return addressFault(this.memory, FAULT_ADDRESS);
    this.offset[at] = chunk * CHUNK + this.memory.position;
    this.length[at] = length;
    this.count = at + 1;
    if (writable) {
      this.writableLength += length;
    } else {
      this.readable = at + 1;
      this.readableLength += length;
    }
    return 0;
  }

  /**
   * The segments as `struct iovec[]` for the kernel, at `iovecAddress`, 16 bytes each, laid out at
   * the first use after a `pop`. The upper halves of the lengths are 0 and stay so.
   */
  get iovec(): Uint32Array {
    if (this.#laidOut !== this.count) this.#layOut();
    return this.#iovec;
  }

  get iovecAddress(): number {
    if (this.#laidOut !== this.count) this.#layOut();
    return this.#native.address;
  }

  #layOut(): void {
    for (let at = 0; at < this.count; at++) {
      const address = this.memory.address + (this.offset[at] as number);
      const word = at * 4;
      this.#iovec[word] = address >>> 0;
      this.#iovec[word + 1] = (address / 2 ** 32) >>> 0;
      this.#iovec[word + 2] = this.length[at] as number;
    }
    this.#laidOut = this.count;
  }

  /** Address of the first writable segment's iovec; there are `count - readable` of them. */
  get writableIovecAddress(): number {
    return this.iovecAddress + this.readable * IOVEC_SIZE;
  }

  /**
   * Takes bytes off the front of the iovecs, from `first` on: those that a system call has moved.
   * @returns the first iovec with bytes left
   */
  cutIovecs(first: number, bytes: number): number {
    const { iovec } = this;
    let at = first;
    let left = bytes;
    while (left > 0) {
      const word = at * 4;
      const length = iovec[word + 2] as number;
      if (left >= length) {
        left -= length;
        at++;
        continue;
      }
      const low = (iovec[word] as number) + left;
      iovec[word] = low;
      if (low >= 2 ** 32) (iovec[word + 1] as number) += 1;
      iovec[word + 2] = length - left;
      left = 0;
    }
    return at;
  }

  /**
   * Copies out of the readable part.
   * @param position where to start, in bytes from the start of the readable part
   * @returns bytes copied: fewer than requested when the part ends before
   */
  read(position: number, into: Uint8Array): number {
    return this.#copy(0, this.readable, position, into, false);
  }

  /** Copies into the writable part, from its byte `position` on. Returns the bytes copied. */
  write(position: number, from: Uint8Array): number {
    return this.#copy(this.readable, this.count, position, from, true);
  }

  /**
   * The bytes of a range of the readable (or writable) part in place, a view for each
   * segment; fewer when the part ends before.
   */
  parts(writable: boolean, position: number, length: number): Uint8Array[] {
    const parts: Uint8Array[] = [];
    const last = writable ? this.count : this.readable;
    let skip = position;
    let left = length;
    for (let i = writable ? this.readable : 0; i < last && left > 0; i++) {
      const segment = this.length[i] as number;
      if (skip >= segment) {
        skip -= segment;
        continue;
      }
      const part = Math.min(segment - skip, left);
      parts.push(this.memory.bytes((this.offset[i] as number) + skip, part));
      left -= part;
      skip = 0;
    }
    return parts;
  }

  /**
   * A little-endian number of the readable part.
   * @param bytes 1, 2, 4 or 8; of 8, values are exact below 2^53
   * @returns -1 when the part ends before
   */
  readUint(position: number, bytes: number): number {
    const { memory } = this;
    const offset = this.#locateField(false, position, bytes);
    if (offset >= 0) {
      if (bytes === 4) return memory.readU32(offset);
      if (bytes === 1) return memory.readU8(offset);
      return bytes === 2 ? memory.readU16(offset) : memory.readU64(offset);
    }
    const field = new Uint8Array(bytes);
    if (this.read(position, field) < bytes) return -1;
    const number = (part: Uint8Array): number =>
      part.reduceRight((value, byte) => value * 256 + byte, 0);
    // Beyond 2^53 rounded once, as by `readU64`: the same however the driver split it.
    return number(field.subarray(4)) * 2 ** 32 + number(field.subarray(0, 4));
  }

  /** Writes a little-endian number of 1, 2, 4 or 8 bytes into the writable part, as far as it fits. */
  writeUint(position: number, bytes: number, value: number): void {
    const { memory } = this;
    const offset = this.#locateField(true, position, bytes);
    if (offset >= 0) {
      if (bytes === 4) memory.writeU32(offset, value);
      else if (bytes === 1) memory.writeU8(offset, value);
      else if (bytes === 2) memory.writeU16(offset, value);
      else memory.writeU64(offset, value);
      return;
    }
    const field = Uint8Array.from({ length: bytes }, (_, i) => Math.floor(value / 256 ** i) % 256);
    this.write(position, field);
  }

  /** RAM offset of a field that is within one segment, else -1. */
  #locateField(writable: boolean, position: number, bytes: number): number {
    const last = writable ? this.count : this.readable;
    let skip = position;
    for (let i = writable ? this.readable : 0; i < last; i++) {
      const length = this.length[i] as number;
      if (skip < length) return skip + bytes <= length ? (this.offset[i] as number) + skip : -1;
      skip -= length;
    }
    return -1;
  }

  /**
   * RAM offset of a byte of the readable (or writable) part, or -1 past its end. For small fields
   * that drivers keep in one segment but need not.
   */
  locate(writable: boolean, position: number): number {
    const last = writable ? this.count : this.readable;
    let skip = position;
    for (let i = writable ? this.readable : 0; i < last; i++) {
      const length = this.length[i] as number;
      if (skip < length) return (this.offset[i] as number) + skip;
      skip -= length;
    }
    return -1;
  }

  #copy(first: number, end: number, position: number, bytes: Uint8Array, write: boolean): number {
    let skip = position;
    let done = 0;
    for (let i = first; i < end && done < bytes.length; i++) {
      const length = this.length[i] as number;
      if (skip >= length) {
        skip -= length;
        continue;
      }
      const part = Math.min(length - skip, bytes.length - done);
      const guest = this.memory.bytes((this.offset[i] as number) + skip, part);
      if (write) guest.set(bytes.subarray(done, done + part));
      else bytes.set(guest, done);
      done += part;
      skip = 0;
    }
    return done;
  }
}
