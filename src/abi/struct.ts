/**
 * Kernel and specification structs described once, as data. A table of fields becomes byte
 * offsets that each abi file exports as plain module constants, so that hot code pays the same
 * as for literals, and tests compare them with a C compiler's.
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

// Reading and writing a struct's scalar fields by name. Cold code only: it uses BigInt.

/** Any layout that `struct` makes. */
export type AnyLayout = { readonly size: number };

/** The names of a layout's fields. */
export type FieldName<L extends AnyLayout> = Exclude<keyof L, 'size'> & string;

/** The value of a little-endian field of 1, 2, 4 or 8 bytes that lies at `base` + its offset. */
export function readField(view: DataView, field: Field, base = 0): bigint {
  const at = base + field.offset;
  switch (field.length) {
    case 1:
      return BigInt(view.getUint8(at));
    case 2:
      return BigInt(view.getUint16(at, true));
    case 4:
      return BigInt(view.getUint32(at, true));
    default:
      return view.getBigUint64(at, true);
  }
}

/** Writes a little-endian field of 1, 2, 4 or 8 bytes; excess high bits are dropped. */
export function writeField(view: DataView, field: Field, value: bigint | number, base = 0): void {
  const at = base + field.offset;
  const bits = BigInt.asUintN(field.length * 8, BigInt(value));
  switch (field.length) {
    case 1:
      view.setUint8(at, Number(bits));
      return;
    case 2:
      view.setUint16(at, Number(bits), true);
      return;
    case 4:
      view.setUint32(at, Number(bits), true);
      return;
    default:
      view.setBigUint64(at, bits, true);
  }
}

// Request numbers of ioctl(2), made as `asm-generic/ioctl.h` makes them.

const IOC_NRSHIFT = 0;
const IOC_TYPESHIFT = 8;
const IOC_SIZESHIFT = 16;
const IOC_DIRSHIFT = 30;
const IOC_NONE = 0;
const IOC_WRITE = 1;
const IOC_READ = 2;

function ioc(direction: number, type: number, number: number, size: number): number {
  const request =
    (direction << IOC_DIRSHIFT) |
    (size << IOC_SIZESHIFT) |
    (type << IOC_TYPESHIFT) |
    (number << IOC_NRSHIFT);
  return request >>> 0;
}

/** `_IO(type, nr)`: no argument, or one passed by value. */
export const _IO = (type: number, number: number): number => ioc(IOC_NONE, type, number, 0);
/** `_IOR(type, nr, size)`: the kernel writes a struct of `size` bytes. */
export const _IOR = (type: number, number: number, size: number): number =>
  ioc(IOC_READ, type, number, size);
/** `_IOW(type, nr, size)`: the kernel reads a struct of `size` bytes. */
export const _IOW = (type: number, number: number, size: number): number =>
  ioc(IOC_WRITE, type, number, size);
/** `_IOWR(type, nr, size)`: the kernel reads and writes a struct of `size` bytes. */
export const _IOWR = (type: number, number: number, size: number): number =>
  ioc(IOC_READ | IOC_WRITE, type, number, size);
