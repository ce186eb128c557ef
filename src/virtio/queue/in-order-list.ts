/**
 * VIRTIO_F_IN_ORDER (virtio 1.3 §2.7.9, §2.8.8): chains are used in the order in which they were
 * made available. A device may finish them in any order; this list holds back those that overtook
 * others, and joins those that a single used element can report.
 *
 * HOT, measured by bench/groups/queue-walk.ts.
 */

const PENDING = 0;
const COMPLETE = 1;

/** The chains of a queue that were popped and not yet reported, oldest first. */
export class InOrderList {
  /** The batch that `takeBatch` found: id of its last chain, bytes written to that one. */
  id = 0;
  written = 0;
  /** Chains in the batch, and the ring slots they took. */
  chains = 0;
  slots = 0;
  readonly #size: number;
  readonly #ids: Uint16Array;
  readonly #slots: Uint16Array;
  readonly #writable: Float64Array;
  readonly #written: Float64Array;
  readonly #status: Uint8Array;
  #first = 0;
  #length = 0;

  /** @param size the queue size, which bounds the chains in flight */
  constructor(size: number) {
    this.#size = size;
    this.#ids = new Uint16Array(size);
    this.#slots = new Uint16Array(size);
    this.#writable = new Float64Array(size);
    this.#written = new Float64Array(size);
    this.#status = new Uint8Array(size);
  }

  /** Records a popped chain. Returns its place in bits 16 and up, with its id below, for `complete`. */
  add(id: number, slots: number, writableLength: number): number {
    let place = this.#first + this.#length;
    if (place >= this.#size) place -= this.#size;
    this.#ids[place] = id;
    this.#slots[place] = slots;
    this.#writable[place] = writableLength;
    this.#status[place] = PENDING;
    this.#length++;
    return place * 2 ** 16 + id;
  }

  /** Removes the newest chain. */
  removeLast(): void {
    this.#length--;
  }

  /** Records that the device is done with a chain. */
  complete(idWithPlace: number, written: number): void {
    const place = idWithPlace >>> 16;
    this.#written[place] = written;
    this.#status[place] = COMPLETE;
  }

  /**
   * Takes the oldest chains that one used element may represent. A chain may be skipped only when
   * all of its writable part was written, for that is what the driver will assume.
   * @returns false when the oldest chain is not complete
   */
  takeBatch(): boolean {
    this.chains = 0;
    this.slots = 0;
    while (this.#length > 0) {
      const place = this.#first;
      if (this.#status[place] !== COMPLETE) break;
      this.id = this.#ids[place] as number;
      this.written = this.#written[place] as number;
      this.chains++;
      this.slots += this.#slots[place] as number;
      this.#first = place + 1 === this.#size ? 0 : place + 1;
      this.#length--;
      if (this.written !== this.#writable[place]) break;
    }
    return this.chains > 0;
  }
}
