/** Memory whose address may be handed to the kernel: it neither moves nor is collected while its owner lives. */

import {
  type AnyLayout,
  type Field,
  type FieldName,
  readField,
  writeField,
} from '../abi/struct.ts';
import { koffi } from './koffi.ts';

/** The address of a typed array's first byte. The caller keeps the array referenced while the kernel may use it. */
export function addressOf(view: ArrayBufferView): number {
  return Number(koffi.address(view));
}

/**
 * An ArrayBuffer over memory with another owner (a mapping).
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

/** A zeroed kernel struct, with its fields by name. */
export class StructMemory<L extends AnyLayout> extends NativeMemory {
  readonly layout: L;

  /**
   * @param layout the struct
   * @param trailing bytes after it, for structs that end in a flexible array
   */
  constructor(layout: L, trailing = 0) {
    super(layout.size + trailing);
    this.layout = layout;
  }

  get(name: FieldName<L>): bigint {
    return readField(this.view, this.#field(name));
  }

  getNumber(name: FieldName<L>): number {
    return Number(this.get(name));
  }

  set(name: FieldName<L>, value: bigint | number): void {
    writeField(this.view, this.#field(name), value);
  }

  clear(): void {
    this.bytes.fill(0);
  }

  #field(name: FieldName<L>): Field {
    return this.layout[name] as Field;
  }
}
