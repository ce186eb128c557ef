/**
 * A descriptor ring of an 82540EM (SDM 3.2.6, 3.4): where it lies, and how far hardware (head) and
 * software (tail) are. The registers are the driver's word, and are checked each time.
 *
 * HOT.
 */
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { RegisterFile } from './register-file.ts';

/** Bytes of every descriptor. */
const DESCRIPTOR_SIZE = 16;
/** From a ring's first register to the others. */
const HIGH = 4;
const LENGTH = 8;
const HEAD = 16;
const TAIL = 24;

/** One of the two rings. */
export class Ring {
  readonly memory: GuestMemory;
  /** Descriptors; 0 while the driver has given none. */
  count = 0;
  head = 0;
  tail = 0;
  readonly #file: RegisterFile;
  readonly #registers: number;
  /** Offset in RAM. */
  #base = 0;

  /** @param registers offset of the ring's first register: RDBAL or TDBAL */
  constructor(memory: GuestMemory, file: RegisterFile, registers: number) {
    this.memory = memory;
    this.#file = file;
    this.#registers = registers;
  }

  /** Reads the registers. Returns what is wrong with them, or null. */
  load(): string | null {
    const file = this.#file;
    const at = this.#registers;
    const length = file.get(at + LENGTH);
    this.count = length / DESCRIPTOR_SIZE;
    this.head = file.get(at + HEAD);
    this.tail = file.get(at + TAIL);
    if (length === 0) {
      this.head = this.tail;
      return null;
    }
    const gpa = file.get(at + HIGH) * 2 ** 32 + file.get(at);
    this.#base = this.memory.offset(gpa, length);
    if (this.#base < 0) return `a ring of ${length} bytes at 0x${gpa.toString(16)} is not in RAM`;
    if (this.head < this.count && this.tail < this.count) return null;
    return `head ${this.head} or tail ${this.tail} is outside of a ring of ${this.count}`;
  }

  /** Descriptors from the head to the tail: those that the hardware owns. */
  get owned(): number {
    const owned = this.tail - this.head;
    return owned < 0 ? owned + this.count : owned;
  }

  /** Offset in RAM of a descriptor. */
  descriptor(index: number): number {
    return this.#base + index * DESCRIPTOR_SIZE;
  }

  next(index: number): number {
    return index + 1 === this.count ? 0 : index + 1;
  }

  /** Moves the head on, for the driver to see. */
  advance(head: number): void {
    this.head = head;
    this.#file.set(this.#registers + HEAD, head);
  }
}
