/** Memory that O_DIRECT takes, for data whose own place it does not. */
import { NativeMemory } from '../host/native-memory.ts';

/** Enough for any medium's blocks. */
const ALIGNMENT = 4096;
const LENGTH = 64 * 1024;
const IOVEC_SIZE = 16;

/** An aligned buffer and the iovec that names it to the kernel. */
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
