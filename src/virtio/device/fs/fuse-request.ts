/**
 * One FUSE request (virtio 1.3 §5.11.6): a header, its own struct and names or data, to be
 * read; room for a header and an answer. The layout over descriptors is free (§2.6.4).
 *
 * HOT: data of READ and WRITE never passes through here.
 */
import { EINVAL, ENAMETOOLONG } from '../../../abi/errno.ts';
import { NAME_MAX } from '../../../abi/files.ts';
import { FUSE_WRITE, fuse_in_header, fuse_out_header, fuse_write_in } from '../../../abi/fuse.ts';
import { NativeMemory } from '../../../host/native-memory.ts';
import type { GuestMemory } from '../../../memory/guest-memory.ts';
import { DescriptorChain, IOVEC_SIZE } from '../../queue/descriptor-chain.ts';

/** Offset of the node ID that a request is about. */
export const NODEID = fuse_in_header.nodeid.offset;
/** Offset of a request's own struct, and of its answer's. */
export const BODY = fuse_in_header.size;
export const ANSWER = fuse_out_header.size;
/** Bytes in front of a WRITE's data. */
export const WRITE_HEAD = BODY + fuse_write_in.size;
/** The longest request, except a WRITE's data: an extended attribute with its name. */
const INPUT_SIZE = 72 * 1024;
/** The longest answer, except a READ's data. */
export const OUTPUT_SIZE = 64 * 1024;

const SLASH = 0x2f;
const DOT = 0x2e;

/** `begin`: the contents of the chain. */
export const REQUEST_GOOD = 0;
/** The readable part is too short for a header. */
export const REQUEST_MALFORMED = -1;

const U32 = 2 ** 32;
const { len, opcode, unique, uid, gid } = fuse_in_header;

/**
 * Part of a chain's data, as iovecs for successive system calls. HOT. Modifies the chain's own iovecs
 * in place: it is their last user.
 */
class IovecRange {
  readonly #chain: DescriptorChain;
  #first = 0;
  #end = 0;

  constructor(chain: DescriptorChain) {
    this.#chain = chain;
  }

  get address(): number {
    return this.#chain.iovecAddress + this.#first * IOVEC_SIZE;
  }

  get count(): number {
    return this.#end - this.#first;
  }

  /**
   * Starts on a range of the readable (or writable) part.
   * @returns false when the part ends before
   */
  take(writable: boolean, position: number, length: number): boolean {
    const chain = this.#chain;
    const last = writable ? chain.count : chain.readable;
    let first = writable ? chain.readable : 0;
    let skip = position;
    while (first < last && skip >= (chain.length[first] as number)) {
      skip -= chain.length[first] as number;
      first++;
    }
    this.#first = first;
    let left = length + skip;
    let end = first;
    for (; end < last && left > 0; end++) {
      const segment = chain.length[end] as number;
      if (segment > left) chain.iovec[end * 4 + 2] = left;
      left -= segment;
    }
    this.#end = end;
    if (left > 0) return false;
    if (skip > 0) this.advance(skip);
    return true;
  }

  /** Takes bytes off the front. */
  advance(bytes: number): void {
    this.#first = this.#chain.cutIovecs(this.#first, bytes);
  }
}

/** Reused for each request. 64-bit numbers are doubles: none beyond 2^53 is valid anywhere. */
export class FuseRequest {
  readonly chain: DescriptorChain;
  readonly data: IovecRange;
  /** The request from its header on, without a WRITE's data. */
  readonly input = new NativeMemory(INPUT_SIZE);
  /** Where an operation puts its answer. */
  readonly output = new NativeMemory(OUTPUT_SIZE);
  opcode = 0;
  uid = 0;
  gid = 0;
  /** Bytes of the request by its header; at most those that the chain has. */
  length = 0;
  /** The name that `name` found, an address; and where the next one starts. */
  nameAddress = 0;
  /** An operation's answer is in the chain already. */
  placed = false;
  readonly #memory: GuestMemory;
  readonly #words: Uint32Array;
  readonly #header = new Uint8Array(ANSWER);
  #next = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
    this.chain = new DescriptorChain(memory);
    this.data = new IovecRange(this.chain);
    this.#words = new Uint32Array(this.input.bytes.buffer);
  }

  /** Room for an answer behind its header. */
  get room(): number {
    return this.chain.writableLength - ANSWER;
  }

  /** Reads the popped chain. Returns a REQUEST_ number or a negative errno to answer. */
  begin(): number {
    const { readableLength } = this.chain;
    if (readableLength < BODY) return REQUEST_MALFORMED;
    this.placed = false;
    this.#next = 0;
    const head = Math.min(readableLength, WRITE_HEAD);
    this.#read(head);
    this.opcode = this.u32(opcode.offset);
    this.uid = this.u32(uid.offset);
    this.gid = this.u32(gid.offset);
    this.length = this.u32(len.offset);
    if (this.length < BODY || this.length > readableLength) return -EINVAL;
    if (this.length <= head || this.opcode === FUSE_WRITE) return REQUEST_GOOD;
    if (this.length > INPUT_SIZE) return -EINVAL;
    this.chain.read(head, this.input.bytes.subarray(head, this.length));
    return REQUEST_GOOD;
  }

  /** A number of the request, by its place in `input`, which is a multiple of 4. */
  u32(at: number): number {
    return this.#words[at >> 2] as number;
  }

  u64(at: number): number {
    const word = at >> 2;
    return (this.#words[word + 1] as number) * U32 + (this.#words[word] as number);
  }

  /**
   * Finds the next name, a single component of a path, from `from` on or after the one before.
   * It cannot lead out of a folder: neither a slash nor `..` is valid.
   * @returns 0 with `nameAddress` set, or a negative errno
   */
  name(from: number): number {
    const start = Math.max(from, this.#next);
    const { bytes } = this.input;
    const refused = this.text(from);
    if (refused < 0) return refused;
    const length = this.#next - 1 - start;
    if (length > NAME_MAX) return -ENAMETOOLONG;
    if (length === 1 && bytes[start] === DOT) return -EINVAL;
    if (length === 2 && bytes[start] === DOT && bytes[start + 1] === DOT) return -EINVAL;
    for (let at = start; at < start + length; at++) if (bytes[at] === SLASH) return -EINVAL;
    return 0;
  }

  /** As `name`, of any text that is not empty. */
  text(from: number): number {
    const start = Math.max(from, this.#next);
    const end = this.input.bytes.subarray(0, this.length).indexOf(0, start);
    if (end <= start) return -EINVAL;
    this.nameAddress = this.input.address + start;
    this.#next = end + 1;
    return 0;
  }

  /** False for requests that do not show whether their caller has CAP_FSETID. */
  get mayKeepIds(): boolean {
    return this.uid === 0;
  }

  /** Where in `input` the next name would start. */
  get rest(): number {
    return this.#next;
  }

  /**
   * Writes the answer.
   * @param result bytes of it, or a negative errno
   * @returns how many bytes were written
   */
  answer(result: number): number {
    const payload = Math.max(result, 0);
    const { chain } = this;
    const first = chain.readable;
    if ((chain.length[first] as number) >= ANSWER) {
      const at = chain.offset[first] as number;
      this.#memory.writeU32(at, ANSWER + payload);
      this.#memory.writeU32(at + 4, result < 0 ? result >>> 0 : 0);
      this.#memory.writeU32(at + 8, this.u32(unique.offset));
      this.#memory.writeU32(at + 12, this.u32(unique.offset + 4));
    } else {
      const view = new DataView(this.#header.buffer);
      view.setUint32(0, ANSWER + payload, true);
      view.setInt32(4, Math.min(result, 0), true);
      view.setUint32(8, this.u32(unique.offset), true);
      view.setUint32(12, this.u32(unique.offset + 4), true);
      chain.write(0, this.#header);
    }
    if (payload > 0 && !this.placed) {
      chain.write(ANSWER, this.output.bytes.subarray(0, payload));
    }
    return ANSWER + payload;
  }

  /** Copies the start of the chain to `input`: by words where it is split at words, as drivers do. */
  #read(length: number): void {
    const { chain } = this;
    const words = this.#words;
    const memory = this.#memory;
    let done = 0;
    for (let i = 0; done < length; i++) {
      const part = Math.min(chain.length[i] as number, length - done);
      if ((part & 3) !== 0) {
        chain.read(0, this.input.bytes.subarray(0, length));
        return;
      }
      const at = chain.offset[i] as number;
      const to = done >> 2;
      for (let word = 0; word < part >> 2; word++) words[to + word] = memory.readU32(at + word * 4);
      done += part;
    }
  }
}
