/** A kernel struct in memory whose address ioctls may take, with its fields by name. */
import type { Field } from '../abi/struct.ts';
import { type AnyLayout, type FieldName, readField, writeField } from '../abi/struct-view.ts';
import { NativeMemory } from './native-memory.ts';

/** One zeroed struct. */
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
