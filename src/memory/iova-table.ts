/**
 * What an IOMMU lets a device reach: which of its addresses show which guest RAM. What serves the device outside
 * of this process has a copy of it (an IOTLB), which a listener keeps up to date.
 */

import { ACCESS_READ, ACCESS_WRITE, type GuestMemory } from './guest-memory.ts';

/** A piece of guest RAM that a device reaches; in whole pages. */
export interface IovaMapping {
  readonly address: number;
  /** Bytes. */
  readonly length: number;
  readonly gpa: number;
  /** ACCESS_ bits. */
  readonly access: number;
}

/** A place where guest RAM is mapped for a device. */
export interface MappingTarget {
  /** @returns false when there is no room for another mapping */
  map(address: number, gpa: number, length: number, access: number): boolean;
  /** Takes away everything. */
  clear(): void;
}

/** Maps all guest RAM at its own addresses, and nothing else. @returns false when some of it could not be */
export function mapAllRam(target: MappingTarget, { regions }: GuestMemory): boolean {
  target.clear();
  const mapped = regions.map(({ gpa, size }) =>
    target.map(gpa, gpa, size, ACCESS_READ | ACCESS_WRITE),
  );
  return !mapped.includes(false);
}

/** Follows a device's mappings. */
export interface IovaListener {
  /**
   * Nothing was mapped there before.
   * @returns when the device can use it, if not at once
   */
  mapped(mapping: IovaMapping): Promise<void> | undefined;
  /**
   * Nothing in a range is mapped any more.
   * @returns when the copy is gone, if not at once: the guest must not use the RAM for anything else before
   */
  unmapped(address: number, length: number): Promise<void> | undefined;
}

/** The mappings of one device, which do not overlap. */
export class IovaTable {
  /** By address. */
  readonly #mappings: IovaMapping[] = [];
  readonly #listeners = new Set<IovaListener>();
  /** What listeners have not done yet. */
  readonly #waiting = new Set<Promise<void>>();

  get all(): readonly IovaMapping[] {
    return this.#mappings;
  }

  /** Those in a range, or partly in it. */
  within(address: number, length: number): readonly IovaMapping[] {
    const first = this.#firstFrom(address);
    return this.#mappings.slice(first, this.#firstNotBefore(first, address + length));
  }

  /** The one that has an address. @param access what it must permit, as ACCESS_ bits */
  find(address: number, access: number): IovaMapping | undefined {
    const mapping = this.#mappings[this.#firstFrom(address)];
    const permits =
      mapping !== undefined && mapping.address <= address && (mapping.access & access) === access;
    return permits ? mapping : undefined;
  }

  /** Calls a listener for every change from here on. */
  watch(listener: IovaListener): void {
    this.#listeners.add(listener);
  }

  unwatch(listener: IovaListener): void {
    this.#listeners.delete(listener);
  }

  /** Resolves when every listener has followed every change; undefined: all have. */
  settled(): Promise<unknown> | undefined {
    return this.#waiting.size === 0 ? undefined : Promise.all(this.#waiting);
  }

  /** Adds one that overlaps no other. */
  add(mapping: IovaMapping): void {
    this.#mappings.splice(this.#firstFrom(mapping.address), 0, mapping);
    for (const listener of this.#listeners) this.#await(listener.mapped(mapping));
  }

  /** Removes those in a range, which has none of them in part. */
  remove(address: number, length: number): void {
    const first = this.#firstFrom(address);
    const count = this.#firstNotBefore(first, address + length) - first;
    if (count === 0) return;
    this.#mappings.splice(first, count);
    for (const listener of this.#listeners) this.#await(listener.unmapped(address, length));
  }

  /** A listener handles its failures itself. */
  #await(done: Promise<void> | undefined): void {
    if (done === undefined) return;
    const ended = done.catch(() => {}).finally(() => this.#waiting.delete(ended));
    this.#waiting.add(ended);
  }

  /** Index of the first one that ends behind an address. */
  #firstFrom(address: number): number {
    return firstIndex(this.#mappings.length, (index) => {
      const { address: start, length } = this.#mappings[index] as IovaMapping;
      return start + length > address;
    });
  }

  /** Index of the first one, from an index on, that starts at an address or behind it. */
  #firstNotBefore(first: number, end: number): number {
    let at = first;
    while (at < this.#mappings.length && (this.#mappings[at] as IovaMapping).address < end) at++;
    return at;
  }
}

/** @param isFrom false up to some index, true from there on. @returns that index, up to `length` */
export function firstIndex(length: number, isFrom: (index: number) => boolean): number {
  let low = 0;
  let high = length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (isFrom(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}
