/**
 * An io_uring(7) instance: rings mapped as typed arrays, one system call for a batch.
 *
 * HOT: bench/groups/device.ts. Used by the thread that made it, and no other.
 */
import { EAGAIN, EBUSY, EINTR, EINVAL } from '../abi/errno.ts';
import * as abi from '../abi/io-uring.ts';
import { Closeable } from './cleanup-stack.ts';
import { HostError } from './errors.ts';
import { Fd } from './fd.ts';
import { NativeMemory, viewOf } from './native-memory.ts';
import * as sys from './syscall.ts';

const MAP_POPULATE = 0x8000;

const P = abi.io_uring_params;
const SQE = abi.io_uring_sqe;
const SQE_WORDS = SQE.size / 4;
const CQE_WORDS = abi.io_uring_cqe.size / 4;
const SQE_FD = SQE.fd.offset / 4;
const SQE_OFF = SQE.off.offset / 4;
const SQE_ADDR = SQE.addr.offset / 4;
const SQE_LEN = SQE.len.offset / 4;
const SQE_RW_FLAGS = SQE.rw_flags.offset / 4;
const SQE_USER_DATA = SQE.user_data.offset / 4;
const CQE_USER_DATA = abi.io_uring_cqe.user_data.offset / 4;
const CQE_RES = abi.io_uring_cqe.res.offset / 4;

/** Flags that later kernels know and that only save time, best first; 0 works since 5.5. */
const TUNING = [abi.IORING_SETUP_COOP_TASKRUN | abi.IORING_SETUP_SINGLE_ISSUER, 0];

function setup(entries: number, params: NativeMemory, completions: number): Fd {
  let fd = -EINVAL;
  for (const tuning of TUNING) {
    params.bytes.fill(0);
    params.view.setUint32(
      P.flags.offset,
      abi.IORING_SETUP_CQSIZE | abi.IORING_SETUP_CLAMP | tuning,
      true,
    );
    params.view.setUint32(P.cq_entries.offset, completions, true);
    fd = sys.syscall(abi.SYS_io_uring_setup, entries, params.address);
    if (fd !== -EINVAL) break;
  }
  const remedy = 'use the sync engine, or allow io_uring (sysctl kernel.io_uring_disabled=0)';
  return new Fd(sys.check(fd, 'io_uring_setup', `a ring of ${entries} entries`, remedy));
}

/** Submission and completion ring. `user_data` is a number from 0 to 2^32 - 1. */
export class IoUring extends Closeable {
  /** `user_data` and result (negative errno on failure) of the completion that `reap` took. */
  userData = 0;
  result = 0;
  readonly #fd: Fd;
  readonly #mappings: { address: number; length: number }[] = [];
  readonly #ring: Int32Array;
  readonly #sqes: Uint32Array;
  readonly #sqHead: number;
  readonly #sqTail: number;
  readonly #sqMask: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqMask: number;
  readonly #cqes: number;
  #tail = 0;
  #head = 0;
  #unsubmitted = 0;

  /**
   * @param entries requests that one `submit` can carry, a power of two
   * @param completions requests that may be in flight, at least `entries`
   * @throws HostError when the kernel has no io_uring or forbids it
   */
  constructor(entries: number, completions: number) {
    super();
    const params = new NativeMemory(P.size);
    this.#fd = setup(entries, params, completions);
    const field = (name: { readonly offset: number }): number =>
      params.view.getUint32(name.offset, true);
    try {
      const needed = abi.IORING_FEAT_SINGLE_MMAP | abi.IORING_FEAT_NODROP;
      if ((field(P.features) & needed) !== needed) {
        throw new HostError(
          'io_uring_setup',
          'the kernel',
          38,
          'ENOSYS',
          'too old',
          'use Linux 5.5',
        );
      }
      const sqEntries = field(P.sq_entries);
      const ringLength = Math.max(
        field(P.sq_off_array) + sqEntries * 4,
        field(P.cq_off_cqes) + field(P.cq_entries) * abi.io_uring_cqe.size,
      );
      const ring = this.#map(ringLength, abi.IORING_OFF_SQ_RING);
      this.#ring = new Int32Array(ring);
      this.#sqes = new Uint32Array(this.#map(sqEntries * SQE.size, abi.IORING_OFF_SQES));
      this.#sqHead = field(P.sq_off_head) / 4;
      this.#sqTail = field(P.sq_off_tail) / 4;
      this.#sqMask = sqEntries - 1;
      this.#cqHead = field(P.cq_off_head) / 4;
      this.#cqTail = field(P.cq_off_tail) / 4;
      this.#cqMask = field(P.cq_entries) - 1;
      this.#cqes = field(P.cq_off_cqes) / 4;
      // Slot i of the submission ring always names SQE i.
      const array = field(P.sq_off_array) / 4;
      for (let i = 0; i < sqEntries; i++) this.#ring[array + i] = i;
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Readable while completions wait to be reaped. */
  get fd(): number {
    return this.#fd.fd;
  }

  /**
   * Queues a request; nothing happens before `submit`. The file is named by its descriptor: one
   * that is registered with the ring stays open, and locked, for a while after the ring is closed.
   * @param address of the iovec array or, for fallocate, the length in bytes
   * @param length entries of the iovec array or, for fallocate, the mode
   * @param offset in the file
   * @param flags RWF_ flags, or IORING_FSYNC_ flags
   */
  queue(
    opcode: number,
    fd: number,
    address: number,
    length: number,
    offset: number,
    flags: number,
    userData: number,
  ): void {
    if (this.#unsubmitted > this.#sqMask) this.submit();
    const sqe = (this.#tail & this.#sqMask) * SQE_WORDS;
    const sqes = this.#sqes;
    sqes[sqe] = opcode;
    sqes[sqe + SQE_FD] = fd;
    sqes[sqe + SQE_OFF] = offset >>> 0;
    sqes[sqe + SQE_OFF + 1] = (offset / 2 ** 32) >>> 0;
    sqes[sqe + SQE_ADDR] = address >>> 0;
    sqes[sqe + SQE_ADDR + 1] = (address / 2 ** 32) >>> 0;
    sqes[sqe + SQE_LEN] = length;
    sqes[sqe + SQE_RW_FLAGS] = flags;
    sqes[sqe + SQE_USER_DATA] = userData;
    this.#tail = (this.#tail + 1) | 0;
    this.#unsubmitted++;
  }

  /** Hands the queued requests to the kernel, which completes some of them at once. */
  submit(): void {
    // The kernel stops at an entry that it refuses, after completing it with the error.
    while (this.#unsubmitted > 0) this.#enter(0);
  }

  /** Waits until a completion can be reaped; some request must be in flight. */
  wait(): void {
    while (Atomics.load(this.#ring, this.#cqTail) === this.#head) this.#enter(1);
  }

  /** Takes a completion into `userData` and `result`; false when there is none. */
  reap(): boolean {
    // Pairs with the kernel's release of the tail, after it wrote the entry.
    if (Atomics.load(this.#ring, this.#cqTail) === this.#head) return false;
    const cqe = this.#cqes + (this.#head & this.#cqMask) * CQE_WORDS;
    this.userData = (this.#ring[cqe + CQE_USER_DATA] as number) >>> 0;
    this.result = this.#ring[cqe + CQE_RES] as number;
    this.#head = (this.#head + 1) | 0;
    Atomics.store(this.#ring, this.#cqHead, this.#head);
    return true;
  }

  /** No request may be in flight. */
  close(): void {
    for (const { address, length } of this.#mappings.splice(0)) sys.munmap(address, length);
    this.#fd.close();
  }

  #enter(minimum: number): void {
    // Pairs with the kernel's acquire of the tail, before it reads the entries.
    Atomics.store(this.#ring, this.#sqTail, this.#tail);
    const flags = minimum > 0 ? abi.IORING_ENTER_GETEVENTS : 0;
    const { fd } = this.#fd;
    const done = sys.syscall(abi.SYS_io_uring_enter, fd, this.#unsubmitted, minimum, flags);
    if (done < 0) {
      // Short of memory or completion space; the entries stay queued.
      if (done !== -EINTR && done !== -EAGAIN && done !== -EBUSY) {
        sys.check(done, 'io_uring_enter', 'the ring');
      }
      return;
    }
    this.#unsubmitted = (this.#tail - (this.#ring[this.#sqHead] as number)) | 0;
  }

  #map(length: number, offset: number): ArrayBuffer {
    const address = sys.check(
      sys.mmap(
        0,
        length,
        sys.PROT_READ | sys.PROT_WRITE,
        sys.MAP_SHARED | MAP_POPULATE,
        this.#fd.fd,
        offset,
      ),
      'mmap',
      'an io_uring',
    );
    this.#mappings.push({ address, length });
    return viewOf(address, length);
  }
}
