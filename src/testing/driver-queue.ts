/**
 * The driver's side of a virtqueue in guest RAM, for tests and benchmarks that run without a
 * guest. It follows the specification's driver requirements; tests that violate them write
 * to the three areas directly.
 */
import { InternalError, UsageError } from '../host/errors.ts';
import type { QueueConfig } from '../virtio/queue/virtqueue.ts';
import type { GuestHeap } from './guest-heap.ts';

/** A buffer that a test sends: bytes for the device to read, then room for it to write. */
export interface BufferRequest {
  readonly readable?: readonly Uint8Array[];
  /** Lengths in bytes. */
  readonly writable?: readonly number[];
  /** Writable segments of one length share an address, as with a hostile driver. Default false. */
  readonly aliased?: boolean;
  /** Use an indirect table. Default: if negotiated, for more than one segment. */
  readonly indirect?: boolean;
}

/** A buffer that the device has used. */
export interface CompletedBuffer {
  /** What `add` returned for it. */
  readonly token: number;
  /** Bytes that the device reported as written. */
  readonly written: number;
  /** Those bytes, out of the writable segments. */
  readonly data: Uint8Array;
  /** The whole writable part, including what follows `written`. */
  readonly writable: Uint8Array;
}

/** One element of a buffer. */
export interface DriverSegment {
  readonly gpa: number;
  readonly length: number;
  readonly writable: boolean;
}

/** A buffer in guest RAM, from `add` to `completed`. */
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

  /** Allocates an indirect table, which is freed with the buffer. */
  allocateTable(length: number): number {
    const gpa = this.#heap.allocate(length);
    this.#table = { gpa, length };
    return gpa;
  }

  /** Collects the device's output, and frees the memory. */
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

/** Where a queue lies, and the features that both formats use. */
export interface DriverQueueLayout {
  readonly heap: GuestHeap;
  readonly config: QueueConfig;
  readonly descriptorArea: DataView;
  readonly driverArea: DataView;
  readonly deviceArea: DataView;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  readonly inOrder: boolean;
}

/** A buffer as the device returned it: by its head on split queues, else its buffer ID. */
export interface UsedBuffer {
  readonly id: number;
  readonly written: number;
}

/** What both formats have in common. */
export abstract class DriverQueue {
  /** The device side is created from this. */
  readonly config: QueueConfig;
  /** The areas' bytes, to inspect and to corrupt. */
  readonly descriptorArea: DataView;
  readonly driverArea: DataView;
  readonly deviceArea: DataView;
  protected readonly layout: DriverQueueLayout;
  readonly #buffers = new Map<number, DriverBuffer>();
  #tokens = 0;
  #interruptsOn = true;

  constructor(layout: DriverQueueLayout) {
    this.layout = layout;
    this.config = layout.config;
    this.descriptorArea = layout.descriptorArea;
    this.driverArea = layout.driverArea;
    this.deviceArea = layout.deviceArea;
  }

  /** Descriptors that are free. */
  abstract get free(): number;

  /** Buffers that the device has. */
  get inFlight(): number {
    return this.#buffers.size;
  }

  /**
   * Makes a buffer available to the device.
   * @returns a token that `completed` returns
   * @throws UsageError when the queue has no room
   */
  add(request: BufferRequest): number {
    const count = (request.readable?.length ?? 0) + (request.writable?.length ?? 0);
    const indirect = request.indirect ?? (this.layout.indirect && count > 1);
    if (count === 0) throw new UsageError('E_BUFFER', 'a buffer needs at least one segment');
    if (this.free < (indirect ? 1 : count)) {
      throw new UsageError('E_QUEUE_FULL', 'the queue has no room');
    }
    const buffer = new DriverBuffer(this.layout.heap, this.#tokens++, request);
    this.#buffers.set(this.place(buffer, indirect), buffer);
    return buffer.token;
  }

  /** True when the device wants a notification for the buffers added since the last call. */
  abstract kick(): boolean;

  /**
   * Takes the buffers used since the last call, in the order of their use.
   * While interrupts are on it asks for the next one, as Linux does.
   */
  completed(): CompletedBuffer[] {
    const done: CompletedBuffer[] = [];
    for (let used = this.peekUsed(); used !== undefined; used = this.peekUsed()) {
      const { id, written } = used;
      if (this.layout.inOrder) this.#completeSkipped(id, done);
      done.push(this.#complete(id, written));
    }
    if (this.#interruptsOn && done.length > 0) this.enableInterrupts();
    return done;
  }

  /** Asks for interrupts; true when unseen buffers were used. A queue starts with them on. */
  enableInterrupts(): boolean {
    this.#interruptsOn = true;
    this.requestInterrupt();
    fullBarrier();
    return this.peekUsed() !== undefined;
  }

  /** Turns interrupts off for now. */
  disableInterrupts(): void {
    this.#interruptsOn = false;
    this.suppressInterrupts();
  }

  /** Writes descriptors, and makes the buffer available. @returns the ID that the device returns */
  protected abstract place(buffer: DriverBuffer, indirect: boolean): number;

  /** The next used buffer, if there is one; `release` advances past it. */
  protected abstract peekUsed(): UsedBuffer | undefined;

  /** Frees the descriptors of the next used buffer. */
  protected abstract release(id: number): void;

  protected abstract requestInterrupt(): void;

  protected abstract suppressInterrupts(): void;

  /** §2.7.9, §2.8.8: the buffers before the named one were used completely. */
  #completeSkipped(id: number, done: CompletedBuffer[]): void {
    if (!this.#buffers.has(id)) return;
    for (const [skipped, { writableLength }] of this.#buffers) {
      if (skipped === id) return;
      done.push(this.#complete(skipped, writableLength));
    }
  }

  #complete(id: number, written: number): CompletedBuffer {
    const buffer = this.#buffers.get(id);
    if (buffer === undefined) {
      throw new InternalError(`the device used buffer ${id}, which it does not have`);
    }
    this.#buffers.delete(id);
    this.release(id);
    return buffer.complete(written);
  }
}

const word = new Int32Array(1);

/**
 * A driver's `virtio_mb()`, for devices that are served in another thread or process: makes the
 * stores before it visible ahead of the loads after it. A driver offers a buffer, then looks
 * whether the device wants a notification (virtio 1.3 §2.7.13.4.1, §2.8.21.3.1), or asks for
 * interrupts, then looks for used buffers (§2.7.14).
 */
export function fullBarrier(): void {
  Atomics.exchange(word, 0, 0);
}
