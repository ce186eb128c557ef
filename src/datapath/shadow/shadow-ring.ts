/**
 * The driver's side of a split virtqueue in memory of our own (virtio 1.3 §2.7.13), with at most one readable and one
 * writable descriptor in a chain. Its device is another process: what that writes is checked here.
 *
 * HOT. Nothing is allocated after construction; each field that the device can change is read once.
 */
import {
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED_F_NO_NOTIFY,
  virtq_desc,
} from '../../abi/virtio-ring.ts';
import { viewOf } from '../../host/native-memory.ts';
import type { ShadowPlaces } from './shadow-layout.ts';

/** Places in `struct virtq_avail` and `struct virtq_used`, in 16-bit words. */
const FLAGS = 0;
const IDX = 1;
const AVAIL_RING = 2;

/** `take` found nothing, or an entry that no device may write. */
export const TAKE_NONE = -1;
export const TAKE_FAULT = -2;

/** A fresh ring: its device starts at 0. */
export class ShadowRing {
  /** Bytes that the device wrote to the chain that `take` returned. */
  written = 0;
  readonly #desc: Uint32Array;
  readonly #avail: Uint16Array;
  readonly #used: Uint16Array;
  readonly #usedWords: Uint32Array;
  readonly #mask: number;
  /** Free descriptors: the first `free` of the list. */
  readonly #free: Uint16Array;
  free: number;
  /** By head: its second descriptor, or -1; -2 when it is not in flight. */
  readonly #second: Int32Array;
  #nextAvail = 0;
  #published = 0;
  #nextUsed = 0;

  /**
   * @param address of the memory
   * @param size descriptors in use: a power of two, at most what there are places for
   */
  constructor(address: number, places: ShadowPlaces, size: number) {
    const { descriptorArea, driverArea, deviceArea } = places;
    const used = viewOf(address + deviceArea, 6 + 8 * size);
    this.#desc = new Uint32Array(viewOf(address + descriptorArea, virtq_desc.size * size));
    this.#avail = new Uint16Array(viewOf(address + driverArea, 6 + 2 * size));
    this.#used = new Uint16Array(used);
    this.#usedWords = new Uint32Array(used, 0, 1 + 2 * size);
    this.#mask = size - 1;
    this.#free = Uint16Array.from({ length: size }, (_, i) => size - 1 - i);
    this.free = size;
    this.#second = new Int32Array(size).fill(-2);
    this.#avail.fill(0);
    this.#used.fill(0);
  }

  /** The head of the next chain; there must be a free descriptor. */
  get head(): number {
    return this.#free[this.free - 1] as number;
  }

  /**
   * Makes a chain of one or two buffers available, once it is published; there must be descriptors for it.
   * @returns its head
   */
  offer(
    readable: number,
    readableLength: number,
    writable: number,
    writableLength: number,
  ): number {
    const head = this.#takeFree();
    let second = -1;
    if (readableLength === 0) {
      this.#write(head, writable, writableLength, VIRTQ_DESC_F_WRITE);
    } else if (writableLength === 0) {
      this.#write(head, readable, readableLength, 0);
    } else {
      second = this.#takeFree();
      this.#write(second, writable, writableLength, VIRTQ_DESC_F_WRITE);
      this.#write(head, readable, readableLength, VIRTQ_DESC_F_NEXT | (second << 16));
    }
    this.#second[head] = second;
    this.#avail[AVAIL_RING + (this.#nextAvail & this.#mask)] = head;
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff;
    return head;
  }

  /** Makes the offered chains visible. @returns true when the device wants to be notified (§2.7.10) */
  publish(): boolean {
    if (this.#published === this.#nextAvail) return false;
    this.#published = this.#nextAvail;
    // §2.7.13.3.1: entries before the index; and ahead of the load below (§2.7.13.4.1).
    Atomics.store(this.#avail, IDX, this.#nextAvail);
    return (Atomics.load(this.#used, FLAGS) & VIRTQ_USED_F_NO_NOTIFY) === 0;
  }

  /** @returns the head of the next chain that the device used, with `written`; or TAKE_NONE, TAKE_FAULT */
  take(): number {
    // §2.7.14: pairs with the device's barrier between elements and index.
    const idx = Atomics.load(this.#used, IDX);
    const at = this.#nextUsed;
    if (idx === at) return TAKE_NONE;
    const word = 1 + (at & this.#mask) * 2;
    const head = this.#usedWords[word] as number;
    // Also for an index that is not a device's: it names chains that are not in flight sooner or later.
    if (head > this.#mask || this.#second[head] === -2) return TAKE_FAULT;
    this.written = this.#usedWords[word + 1] as number;
    this.#nextUsed = (at + 1) & 0xffff;
    return head;
  }

  /** The descriptors of a chain that was taken are free again. */
  release(head: number): void {
    const second = this.#second[head] as number;
    this.#second[head] = -2;
    if (second >= 0) this.#free[this.free++] = second;
    this.#free[this.free++] = head;
  }

  #takeFree(): number {
    this.free--;
    return this.#free[this.free] as number;
  }

  #write(index: number, address: number, length: number, flagsAndNext: number): void {
    const word = index * 4;
    this.#desc[word] = address;
    this.#desc[word + 1] = 0;
    this.#desc[word + 2] = length;
    this.#desc[word + 3] = flagsAndNext;
  }
}
