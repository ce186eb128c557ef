/** A request as a definition's functions see it: one descriptor chain, until it is answered. */
import { UsageError } from '../../host/errors.ts';
import type { DescriptorChain } from '../queue/descriptor-chain.ts';
import type { DeviceRequest } from './definition.ts';

/** Bytes that one `read` copies: a chain that repeats memory can be 4 GiB long. */
const MOST_READ = 16 * 2 ** 20;

/**
 * HOT: one is made for each request, so that a kept one goes stale instead of becoming another's; the
 * underlying chain is reused.
 */
export class ChainRequest implements DeviceRequest {
  readonly chain: DescriptorChain;
  /** Its position among all that were taken from the queue. */
  readonly order: number;
  /** How far the device has written. */
  written = 0;
  #over: string | null = null;

  constructor(chain: DescriptorChain, order: number) {
    this.chain = chain;
    this.order = order;
  }

  /** It must no longer be touched: the driver may have reused the memory. */
  end(why: string): void {
    this.#over = why;
  }

  get readableLength(): number {
    this.#check();
    return this.chain.readableLength;
  }

  get writableLength(): number {
    this.#check();
    return this.chain.writableLength;
  }

  read(position = 0, length = Number.POSITIVE_INFINITY): Uint8Array {
    this.#check();
    const count = Math.max(0, Math.min(length, this.chain.readableLength - position));
    if (count > MOST_READ) {
      throw new UsageError(
        'E_REQUEST',
        `a read of ${count} bytes at once, more than ${MOST_READ}`,
        'read a part at a time, or where they lie by readParts',
      );
    }
    const bytes = new Uint8Array(count);
    this.chain.read(position, bytes);
    return bytes;
  }

  write(bytes: Uint8Array, position = this.written): void {
    this.#check();
    this.#grow(position, position + bytes.length);
    this.chain.write(position, bytes);
  }

  readParts(position = 0, length = Number.POSITIVE_INFINITY): Uint8Array[] {
    this.#check();
    return this.chain.parts(false, position, length);
  }

  writeParts(length: number, position = this.written): Uint8Array[] {
    this.#check();
    this.#grow(position, position + length);
    return this.chain.parts(true, position, length);
  }

  readUint(position: number, bytes: 1 | 2 | 4 | 8): number {
    this.#check();
    const value = position >= 0 ? this.chain.readUint(position, bytes) : -1;
    if (value >= 0) return value;
    throw new UsageError(
      'E_REQUEST',
      `a read of bytes ${position} to ${position + bytes} of a request that has ${this.chain.readableLength}`,
    );
  }

  writeUint(value: number, bytes: 1 | 2 | 4 | 8, position = this.written): void {
    this.#check();
    if (!Number.isSafeInteger(value) || value < 0 || value >= 256 ** bytes) {
      throw new UsageError('E_REQUEST', `${value} does not fit into ${bytes} bytes`);
    }
    this.#grow(position, position + bytes);
    this.chain.writeUint(position, bytes, value);
  }

  #grow(position: number, end: number): void {
    if (!(position >= 0) || !(end >= position) || end > this.chain.writableLength) {
      throw new UsageError(
        'E_REQUEST',
        `a write of bytes ${position} to ${end} into a request that has room for ${this.chain.writableLength}`,
      );
    }
    if (end > this.written) this.written = end;
  }

  #check(): void {
    if (this.#over !== null) throw new UsageError('E_REQUEST', this.#over);
  }
}
