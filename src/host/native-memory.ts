/** Memory whose address may be handed to the kernel: it neither moves nor is collected while its owner lives. */
import koffi from 'koffi';

/** The address of a typed array's first byte. The caller keeps the array referenced while the kernel may use it. */
export function addressOf(view: ArrayBufferView): number {
  return Number(koffi.address(view));
}

/**
 * An ArrayBuffer over memory that somebody else owns (a mapping).
 * @param address host virtual address
 * @param length bytes, at most 2^32 - 1 on Node 20
 */
export function viewOf(address: number, length: number): ArrayBuffer {
  return koffi.view(BigInt(address), length);
}

/** A zeroed struct or array for system calls: bytes, a view on them, and their address. */
export class NativeMemory {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly view: DataView<ArrayBuffer>;
  readonly address: number;

  /** @param length bytes, at least 1 */
  constructor(length: number) {
    this.bytes = new Uint8Array(length);
    this.view = new DataView(this.bytes.buffer);
    this.address = addressOf(this.bytes);
  }
}
