/** Buffers that the driver side hands to a device, laid out in guest RAM. */
import type { GuestHeap } from './guest-heap.ts';

/** What a test wants to send: bytes for the device to read, then room for it to write. */
export interface BufferRequest {
  readonly readable?: readonly Uint8Array[];
  /** Lengths in bytes. */
  readonly writable?: readonly number[];
  /** Writable segments of one length lie in one place, as a hostile driver has them. Default false. */
  readonly aliased?: boolean;
  /** Use an indirect table. Default: when negotiated and there is more than one segment. */
  readonly indirect?: boolean;
}

/** A buffer that the device has used. */
export interface CompletedBuffer {
  /** What `add` returned for it. */
  readonly token: number;
  /** Bytes that the device says it wrote. */
  readonly written: number;
  /** Those bytes, out of the writable segments. */
  readonly data: Uint8Array;
  /** The whole writable part, what the device did not count as written included. */
  readonly writable: Uint8Array;
}

/** One element of a buffer. */
export interface DriverSegment {
  readonly gpa: number;
  readonly length: number;
  readonly writable: boolean;
}

/** A buffer while the device may have it. */
export class DriverBuffer {
  readonly token: number;
  readonly segments: readonly DriverSegment[];
  readonly writableLength: number;
  readonly #heap: GuestHeap;
  #table: { readonly gpa: number; readonly length: number } | undefined;

  /** Copies the readable bytes into guest RAM, and fills the writable room with 0xee. */
  constructor(heap: GuestHeap, token: number, request: BufferRequest) {
    this.#heap = heap;
    this.token = token;
    const segments: DriverSegment[] = [];
    for (const bytes of request.readable ?? []) {
      const gpa = heap.allocate(bytes.length);
      heap.bytes(gpa, bytes.length).set(bytes);
      segments.push({ gpa, length: bytes.length, writable: false });
    }
    const places = new Map<number, number>();
    for (const length of request.writable ?? []) {
      const known = request.aliased === true ? places.get(length) : undefined;
      const gpa = known ?? heap.allocate(length);
      places.set(length, gpa);
      if (known === undefined) heap.bytes(gpa, length).fill(0xee);
      segments.push({ gpa, length, writable: true });
    }
    this.segments = segments;
    this.writableLength = segments.reduce((sum, s) => sum + (s.writable ? s.length : 0), 0);
  }

  /** Makes room for an indirect table; it is freed with the buffer. */
  table(length: number): number {
    const gpa = this.#heap.allocate(length);
    this.#table = { gpa, length };
    return gpa;
  }

  /** Collects what the device wrote, and frees the memory. */
  complete(written: number): CompletedBuffer {
    const all = new Uint8Array(this.writableLength);
    let done = 0;
    const freed = new Set<number>();
    for (const { gpa, length, writable } of this.segments) {
      if (writable) {
        all.set(this.#heap.bytes(gpa, length), done);
        done += length;
      }
      if (!freed.has(gpa)) this.#heap.free(gpa, length);
      freed.add(gpa);
    }
    if (this.#table !== undefined) this.#heap.free(this.#table.gpa, this.#table.length);
    return { token: this.token, written, data: all.subarray(0, written), writable: all };
  }
}
