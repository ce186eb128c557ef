/**
 * The descriptors that a file system device holds for its guest, in memory shared by both halves:
 * the data half opens and closes them, and the control half closes the rest at a reset, or when
 * the data half's thread is gone.
 */
import * as sys from '../../../host/syscall.ts';

/** Words before the slots. */
const USED = 0;
const SLOTS = 1;

/** One half's view. A slot holds a descriptor plus 1, or 0. */
export class DescriptorTable {
  readonly shared: SharedArrayBuffer;
  readonly #words: Int32Array;
  /** Slots below USED that are free, as far as this half knows. */
  readonly #free: number[] = [];

  /** @param shared another half's `shared`, or how many slots to make */
  constructor(shared: SharedArrayBuffer | number) {
    this.shared = typeof shared === 'number' ? new SharedArrayBuffer(4 * (SLOTS + shared)) : shared;
    this.#words = new Int32Array(this.shared);
  }

  /** Stores a descriptor. Returns its slot, or -1: the table is full, and the descriptor the caller's. */
  add(fd: number): number {
    const slot = this.#free.pop() ?? this.#grow();
    if (slot >= 0) Atomics.store(this.#words, slot, fd + 1);
    return slot;
  }

  /** Closes the descriptor of a slot. */
  close(slot: number): void {
    const fd = Atomics.exchange(this.#words, slot, 0) - 1;
    if (fd < 0) return;
    sys.close(fd);
    this.#free.push(slot);
  }

  /** Closes all. The other half serves no queue, and is reset before it does. */
  closeAll(): void {
    const used = Atomics.exchange(this.#words, USED, 0);
    for (let slot = SLOTS; slot < SLOTS + used; slot++) {
      const fd = Atomics.exchange(this.#words, slot, 0) - 1;
      if (fd >= 0) sys.close(fd);
    }
    this.#free.length = 0;
  }

  #grow(): number {
    const used = Atomics.load(this.#words, USED);
    if (SLOTS + used >= this.#words.length) return -1;
    Atomics.store(this.#words, USED, used + 1);
    return SLOTS + used;
  }
}
