/** Reading and writing a struct's scalar fields by name. Cold code only: it uses BigInt. */
import type { Field } from './struct.ts';

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
