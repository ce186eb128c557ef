/** Disk engines that tests put under the block device: one that records, and one that counts bytes. */
import { type DiskEngine, IN_FLIGHT } from '../../../src/backend/disk-engine.ts';
import { Eventfd } from '../../../src/host/fd.ts';
import { viewOf } from '../../../src/host/native-memory.ts';
import { BlkHandler } from '../../../src/virtio/device/blk/blk-handler.ts';
import type { QueueHandler } from '../../../src/virtio/device.ts';

/** A request that the engine got. */
export interface FakeRequest {
  readonly kind: 'read' | 'write' | 'flush' | 'discard' | 'zero';
  readonly token: number;
  readonly offset: number;
  /** Iovecs of reads and writes, bytes of the others. */
  readonly length: number;
  /** `stable` of writes, `unmap` of zeroing, true for `flushNow`. */
  readonly flag: boolean;
}

/** Answers each request with what the test decides: a result now, or IN_FLIGHT. */
export class FakeDisk implements DiskEngine {
  readonly zeroesAddress = 0x1000;
  readonly zeroesLength = 4096;
  readonly completionFd: number;
  token = 0;
  result = 0;
  readonly requests: FakeRequest[] = [];
  closed = false;
  /** Called by `wait`: must complete something. */
  onWait: () => void = () => {
    throw new Error('waited for nothing');
  };
  readonly #answer: (request: FakeRequest) => number;
  readonly #eventfd = new Eventfd();
  readonly #completions: { token: number; result: number }[] = [];

  constructor(answer: (request: FakeRequest) => number = () => IN_FLIGHT) {
    this.#answer = answer;
    this.completionFd = this.#eventfd.fd;
  }

  /** The kinds of the requests so far. */
  get kinds(): string[] {
    return this.requests.map(({ kind }) => kind);
  }

  /** Completes a request that is in flight. */
  complete(request: FakeRequest | undefined, result: number): void {
    if (request === undefined) throw new Error('no such request');
    this.#completions.push({ token: request.token, result });
    this.#eventfd.signal();
  }

  read(token: number, _iovec: number, count: number, offset: number): number {
    return this.#record({ kind: 'read', token, offset, length: count, flag: false });
  }

  write(token: number, _iovec: number, count: number, offset: number, stable: boolean): number {
    return this.#record({ kind: 'write', token, offset, length: count, flag: stable });
  }

  flush(token: number): number {
    return this.#record({ kind: 'flush', token, offset: 0, length: 0, flag: false });
  }

  flushNow(): number {
    this.requests.push({ kind: 'flush', token: -1, offset: 0, length: 0, flag: true });
    return 0;
  }

  discard(token: number, offset: number, length: number): number {
    return this.#record({ kind: 'discard', token, offset, length, flag: false });
  }

  zero(token: number, offset: number, length: number, unmap: boolean): number {
    return this.#record({ kind: 'zero', token, offset, length, flag: unmap });
  }

  submit(): void {}

  reap(): boolean {
    const next = this.#completions.shift();
    if (next === undefined) {
      this.#eventfd.drain();
      return false;
    }
    this.token = next.token;
    this.result = next.result;
    return true;
  }

  wait(): void {
    this.onWait();
  }

  close(): void {
    this.closed = true;
    this.#eventfd.close();
  }

  #record(request: FakeRequest): number {
    this.requests.push(request);
    return this.#answer(request);
  }
}

/** Moves nothing, and counts the bytes that it was asked to move. */
export class CountingDisk implements DiskEngine {
  readonly zeroesAddress = 0x1000;
  readonly zeroesLength = 256 * 1024;
  readonly completionFd: number;
  token = 0;
  result = 0;
  /** Bytes of each call. */
  readonly calls: number[] = [];
  /** Of the requests that are in flight; and the most that there were. */
  inFlight = 0;
  most = 0;
  /** Nothing completes meanwhile. */
  held = false;
  readonly #called: () => void;
  readonly #eventfd = new Eventfd();
  readonly #queued: { token: number; result: number }[] = [];
  readonly #waiting: { token: number; result: number }[] = [];

  /**
   * @param blocks whether each call is done when it returns, or when it is reaped
   * @param called after each call was counted
   */
  constructor(blocks: boolean, called: () => void = () => {}) {
    this.completionFd = blocks ? -1 : this.#eventfd.fd;
    this.#called = called;
  }

  get bytes(): number {
    return this.calls.reduce((sum, bytes) => sum + bytes, 0);
  }

  read(token: number, iovec: number, count: number): number {
    const words = new Uint32Array(viewOf(iovec, count * 16));
    let bytes = 0;
    for (let i = 0; i < count; i++) bytes += words[i * 4 + 2] as number;
    return this.#move(token, bytes);
  }

  write(token: number, iovec: number, count: number): number {
    return this.read(token, iovec, count);
  }

  flush(token: number): number {
    return this.#move(token, 0);
  }

  flushNow(): number {
    return 0;
  }

  discard(token: number, _offset: number, length: number): number {
    return this.#move(token, length);
  }

  zero(): number {
    return -95; // EOPNOTSUPP: zeroes are written then
  }

  submit(): void {
    if (this.held || this.#queued.length === 0) return;
    this.#waiting.push(...this.#queued.splice(0));
    this.#eventfd.signal();
  }

  reap(): boolean {
    const next = this.#waiting.shift();
    if (next === undefined) {
      this.#eventfd.drain();
      return false;
    }
    this.token = next.token;
    this.result = next.result;
    this.inFlight -= next.result;
    return true;
  }

  wait(): void {}

  close(): void {
    this.#eventfd.close();
  }

  #move(token: number, bytes: number): number {
    this.calls.push(bytes);
    this.#called();
    if (this.completionFd < 0) return bytes;
    this.#queued.push({ token, result: bytes });
    this.inFlight += bytes;
    this.most = Math.max(this.most, this.inFlight);
    return IN_FLIGHT;
  }
}

/** Calls of the engine so far. */
export const CALLS = 0;
/** 1: the first call returns. */
export const GO = 1;

export interface WatchedDiskOptions {
  readonly blk: ConstructorParameters<typeof BlkHandler>[0];
  readonly words: Int32Array<SharedArrayBuffer>;
}

/** Makes it, in a queue worker. */
export function createHandler(options: unknown): QueueHandler {
  const { blk, words } = options as WatchedDiskOptions;
  const called = (): void => {
    Atomics.add(words, CALLS, 1);
    Atomics.notify(words, CALLS);
    Atomics.wait(words, GO, 0);
  };
  return new BlkHandler(blk, () => new CountingDisk(true, called));
}
