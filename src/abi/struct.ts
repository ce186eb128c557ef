/**
 * Kernel and specification structs described once, as data. A table of fields becomes byte
 * offsets that each abi file exports as plain module constants, so that hot code pays the same
 * as for literals, and tests compare them with what a C compiler says.
 */

/** Width of a scalar field in bytes, or `[width, count]` for an array of scalars. */
export type FieldShape = 1 | 2 | 4 | 8 | readonly [elementBytes: number, count: number];

/** Where one field lies. */
export interface Field {
  /** Byte offset from the start of the struct. */
  readonly offset: number;
  /** Length in bytes, of the whole array for array fields. */
  readonly length: number;
}

/** A struct's layout: its size and every field's place. */
export type Layout<T extends Record<string, FieldShape>> = {
  readonly [K in keyof T]: Field;
} & { readonly size: number };

/**
 * Lays out a C struct with natural alignment, as the System V x86-64 ABI does.
 * @param fields the fields in declaration order; none may be called `size`
 * @param packed true for `__attribute__((packed))` structs and wire formats
 */
export function struct<const T extends Record<string, FieldShape>>(
  fields: T,
  packed = false,
): Layout<T> {
  const layout: Record<string, Field> = {};
  let offset = 0;
  let alignment = 1;
  for (const [name, shape] of Object.entries(fields)) {
    const [element, count] = typeof shape === 'number' ? [shape, 1] : shape;
    if (!packed) {
      const natural = Math.min(element, 8);
      alignment = Math.max(alignment, natural);
      offset = Math.ceil(offset / natural) * natural;
    }
    layout[name] = { offset, length: element * count };
    offset += element * count;
  }
  const size = Math.ceil(offset / alignment) * alignment;
  return { ...layout, size } as unknown as Layout<T>;
}
