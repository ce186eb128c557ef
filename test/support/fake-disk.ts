/** Disk engines that tests put under the block device: one that records, one that holds back. */
import { type DiskEngine, IN_FLIGHT } from '../../src/backend/disk-engine.ts';
import { Eventfd } from '../../src/host/eventfd.ts';

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
