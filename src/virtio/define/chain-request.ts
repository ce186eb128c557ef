/** A request as a definition's functions see it: one descriptor chain, until it is answered. */
import { UsageError } from '../../host/errors.ts';
import type { DescriptorChain } from '../queue/descriptor-chain.ts';
import type { DeviceRequest } from './definition.ts';

/**
 * HOT: one is made for each request, so that one that was kept is dead and not somebody else's; the
 * chain under it is used again.
 */
export class ChainRequest implements DeviceRequest {
  readonly chain: DescriptorChain;
  /** Its place among all that were taken from the queue. */
  readonly order: number;
  /** How far the device has written. */
  written = 0;
  #over: string | null = null;

  constructor(chain: DescriptorChain, order: number) {
    this.chain = chain;
    this.order = order;
  }

  /** It must not be touched any more: the driver may have reused the memory. */
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
    const bytes = new Uint8Array(
      Math.max(0, Math.min(length, this.chain.readableLength - position)),
    );
    this.chain.read(position, bytes);
    return bytes;
  }

  write(bytes: Uint8Array, position = this.written): void {
    this.#check();
    const end = position + bytes.length;
    if (!(position >= 0) || end > this.chain.writableLength) {
      throw new UsageError(
        'E_REQUEST',
        `a write of bytes ${position} to ${end} into a request that has room for ${this.chain.writableLength}`,
      );
    }
    this.chain.write(position, bytes);
    if (end > this.written) this.written = end;
  }

  #check(): void {
    if (this.#over !== null) throw new UsageError('E_REQUEST', this.#over);
  }
}
