/**
 * A small assembler for ACPI Machine Language (ACPI 6.5 §20.2): each function returns the bytes
 * of one term, made from the bytes of its parts.
 */
import { InternalError } from '../host/errors.ts';

/** Encoded AML. */
export type Aml = readonly number[];

const ZERO_OP = 0x00;
const ONE_OP = 0x01;
const NAME_OP = 0x08;
const BYTE_PREFIX = 0x0a;
const WORD_PREFIX = 0x0b;
const DWORD_PREFIX = 0x0c;
const STRING_PREFIX = 0x0d;
const QWORD_PREFIX = 0x0e;
const SCOPE_OP = 0x10;
const BUFFER_OP = 0x11;
const PACKAGE_OP = 0x12;
const METHOD_OP = 0x14;
const DUAL_NAME_PREFIX = 0x2e;
const MULTI_NAME_PREFIX = 0x2f;
const EXT_OP_PREFIX = 0x5b;
const LOCAL0_OP = 0x60;
const ARG0_OP = 0x68;
const STORE_OP = 0x70;
const AND_OP = 0x7b;
const OR_OP = 0x7d;
const OP_REGION_OP = 0x80;
const FIELD_OP = 0x81;
const DEVICE_OP = 0x82;
const NOTIFY_OP = 0x86;
const CREATE_DWORD_FIELD_OP = 0x8a;
const LNOT_OP = 0x92;
const LEQUAL_OP = 0x93;
const LLESS_OP = 0x95;
const IF_OP = 0xa0;
const RETURN_OP = 0xa4;
/** Method flags, §20.2.5.2. */
const SERIALIZED = 1 << 3;
/** Region space, §20.2.5.2. */
const SYSTEM_IO = 1;
/** Any access width, no lock, the other bits preserved. */
const FIELD_FLAGS_DEFAULT = 0;
/** Accessed by double words, no lock, the other bits preserved. */
const FIELD_FLAGS_DWORD = 3;
/** A field's length in bits, in the encoding of PkgLength (§20.2.4). */
const FIELD_LENGTH_32: readonly number[] = [32];
const ROOT_CHAR = 0x5c;

/** A number's bytes, least significant first. */
export function littleEndian(value: number, bytes: number): number[] {
  return Array.from({ length: bytes }, (_, at) => Math.floor(value / 2 ** (8 * at)) % 256);
}

function ascii(text: string): number[] {
  return Array.from(text, (character) => character.charCodeAt(0));
}

/** §20.2.2 NameString: `_HID`, `PCI0`, `\\_SB`, `\\_SB.PCI0`. Segments are padded with `_` to four. */
export function nameString(path: string): Aml {
  const isAbsolute = path.startsWith('\\');
  const segments = path.slice(isAbsolute ? 1 : 0).split('.');
  for (const segment of segments) {
    if (!/^[A-Z_][A-Z0-9_]{0,3}$/.test(segment)) throw new InternalError(`AML name ${path}`);
  }
  const prefix =
    segments.length === 1
      ? []
      : segments.length === 2
        ? [DUAL_NAME_PREFIX]
        : [MULTI_NAME_PREFIX, segments.length];
  const names = segments.flatMap((segment) => ascii(segment.padEnd(4, '_')));
  return [...(isAbsolute ? [ROOT_CHAR] : []), ...prefix, ...names];
}

/** §20.2.4 PkgLength, which counts its own bytes too, before the contents. */
function withPkgLength(contents: Aml): number[] {
  if (contents.length + 1 < 2 ** 6) return [contents.length + 1, ...contents];
  for (const more of [1, 2, 3]) {
    const length = contents.length + 1 + more;
    if (length < 2 ** (4 + 8 * more)) {
      return [(more << 6) | (length % 16), ...littleEndian(length >> 4, more), ...contents];
    }
  }
  throw new InternalError('AML package of 2^28 bytes');
}

/** §20.2.3 an integer in its shortest form. */
export function integer(value: number): Aml {
  if (value === 0) return [ZERO_OP];
  if (value === 1) return [ONE_OP];
  if (value < 2 ** 8) return [BYTE_PREFIX, value];
  if (value < 2 ** 16) return [WORD_PREFIX, ...littleEndian(value, 2)];
  if (value < 2 ** 32) return [DWORD_PREFIX, ...littleEndian(value, 4)];
  return [QWORD_PREFIX, ...littleEndian(value, 8)];
}

/** §20.2.3 String. */
export function string(text: string): Aml {
  return [STRING_PREFIX, ...ascii(text), 0];
}

/** §19.6.36 EISAID: three letters of 5 bits and four hexadecimal digits, big-endian. */
export function eisaId(id: string): Aml {
  if (!/^[A-Z]{3}[0-9A-F]{4}$/.test(id)) throw new InternalError(`EISA ID ${id}`);
  const [a = 0, b = 0, c = 0] = ascii(id).map((code) => code - 0x40);
  const vendor = (a << 10) | (b << 5) | c;
  const product = Number.parseInt(id.slice(3), 16);
  return [DWORD_PREFIX, vendor >> 8, vendor & 0xff, product >> 8, product & 0xff];
}

/** §20.2.5.1 Name(path, value). */
export function name(path: string, value: Aml): Aml {
  return [NAME_OP, ...nameString(path), ...value];
}

/** §20.2.5.1 Scope(path) { ... }. */
export function scope(path: string, ...terms: readonly Aml[]): Aml {
  return [SCOPE_OP, ...withPkgLength([...nameString(path), ...terms.flat()])];
}

/** §20.2.5.2 Device(path) { ... }. */
export function device(path: string, ...terms: readonly Aml[]): Aml {
  return [EXT_OP_PREFIX, DEVICE_OP, ...withPkgLength([...nameString(path), ...terms.flat()])];
}

/** §20.2.5.2 Method(path, argumentCount) { ... }, not serialized. */
export function method(path: string, argumentCount: number, ...terms: readonly Aml[]): Aml {
  return [METHOD_OP, ...withPkgLength([...nameString(path), argumentCount, ...terms.flat()])];
}

/** §20.2.5.2 OperationRegion(path, SystemIO, port, size). */
export function ioRegion(path: string, port: number, size: number): Aml {
  return [
    EXT_OP_PREFIX,
    OP_REGION_OP,
    ...nameString(path),
    SYSTEM_IO,
    ...integer(port),
    ...integer(size),
  ];
}

/** §20.2.5.2 Field(region, AnyAcc, NoLock, Preserve) { path, 8 }: its first byte. */
export function byteField(region: string, path: string): Aml {
  const contents = [...nameString(region), FIELD_FLAGS_DEFAULT, ...nameString(path), 8];
  return [EXT_OP_PREFIX, FIELD_OP, ...withPkgLength(contents)];
}

/** §20.2.5.2 Field(region, DWordAcc, NoLock, Preserve) { path, 32, ... }: its 32-bit words in their order. */
export function wordFields(region: string, ...paths: readonly string[]): Aml {
  const words = paths.flatMap((path) => [...nameString(path), ...FIELD_LENGTH_32]);
  const contents = [...nameString(region), FIELD_FLAGS_DWORD, ...words];
  return [EXT_OP_PREFIX, FIELD_OP, ...withPkgLength(contents)];
}

/** §20.2.6.2 Local0 and Local1. */
export const local0: Aml = [LOCAL0_OP];
export const local1: Aml = [LOCAL0_OP + 1];

/** §20.2.5.3 Notify(path, value). */
export function notify(path: string, value: number): Aml {
  return [NOTIFY_OP, ...nameString(path), ...integer(value)];
}

/** §20.2.5.3 Return(value). */
export function returnValue(value: Aml): Aml {
  return [RETURN_OP, ...value];
}

/** §20.2.5.4 Package() { ... }, at most 255 elements. */
export function packageOf(...elements: readonly Aml[]): Aml {
  return [PACKAGE_OP, ...withPkgLength([elements.length, ...elements.flat()])];
}

/** §20.2.5.4 Buffer() { ... }. */
export function buffer(bytes: Aml): Aml {
  return [BUFFER_OP, ...withPkgLength([...integer(bytes.length), ...bytes])];
}

/** §19.6.143 ToUUID: the buffer that a UUID is. */
export function uuid(text: string): Aml {
  return buffer([...uuidBytes(text)]);
}

/** §20.2.5.2 Method(path, argumentCount, Serialized) { ... }, for methods that make named objects. */
export function serializedMethod(
  path: string,
  argumentCount: number,
  ...terms: readonly Aml[]
): Aml {
  return method(path, argumentCount | SERIALIZED, ...terms);
}

/** §20.2.6.1 ArgN, the arguments of a method. */
export function arg(index: 0 | 1 | 2 | 3 | 4 | 5 | 6): Aml {
  return [ARG0_OP + index];
}

/** §20.2.6.2 Local0 to Local7 hold what a method works with; one is enough here. */
export const LOCAL0: Aml = [0x60];

/** §20.2.5.2 CreateDWordField(source, byteIndex, path). */
export function createDWordField(source: Aml, byteIndex: number, path: string): Aml {
  return [CREATE_DWORD_FIELD_OP, ...source, ...integer(byteIndex), ...nameString(path)];
}

/** §20.2.5.3 If (predicate) { ... }. */
export function ifTrue(predicate: Aml, ...terms: readonly Aml[]): Aml {
  return [IF_OP, ...withPkgLength([...predicate, ...terms.flat()])];
}

/** §20.2.5.4 LNotEqual(a, b). */
export function notEqual(a: Aml, b: Aml): Aml {
  return [LNOT_OP, LEQUAL_OP, ...a, ...b];
}

/** §20.2.5.4 LLess(a, b). */
export function less(a: Aml, b: Aml): Aml {
  return [LLESS_OP, ...a, ...b];
}

/** §20.2.2 NullName as a target: the result is stored nowhere. */
export const nullName: Aml = [0];

/** §20.2.5.4 And(a, b, target). */
export function and(a: Aml, b: Aml, target: Aml): Aml {
  return [AND_OP, ...a, ...b, ...target];
}

/** §20.2.5.4 Or(a, b, target). */
export function or(a: Aml, b: Aml, target: Aml): Aml {
  return [OR_OP, ...a, ...b, ...target];
}

/** §20.2.5.4 Store(source, target). */
export function store(source: Aml, target: Aml): Aml {
  return [STORE_OP, ...source, ...target];
}

// ACPI resource descriptors (ACPI 6.5 §6.4) and the template that holds them.

/** Resource type of an address space descriptor, §6.4.3.5. */
const MEMORY_RANGE = 0;
const IO_RANGE = 1;
const BUS_NUMBER_RANGE = 2;
/** General flags, §6.4.3.5: produced for the devices below, both ends fixed, decoded positively. */
const PRODUCER_MIN_MAX_FIXED = 0b1100;
/** Memory flags, §6.4.3.5.5.1. */
const READ_WRITE = 1;
const PREFETCHABLE = 0b110;
/** I/O flags, §6.4.3.5.5.2: ISA and non-ISA ranges. */
const ENTIRE_RANGE = 0b11;
/** Interrupt vector flags, §6.4.3.6. */
const CONSUMER_EDGE_HIGH_EXCLUSIVE = 0b0011;
const CONSUMER_LEVEL_HIGH_SHARED = 0b1001;

/** A range of addresses or numbers. */
export interface Range {
  readonly base: number;
  readonly size: number;
}

/** Buffer with the descriptors and an end tag (§6.4.2.9; checksum 0 means unchecked). */
export function resourceTemplate(...descriptors: readonly Aml[]): Aml {
  return buffer([...descriptors.flat(), 0x79, 0]);
}

/** §6.4.2.5 I/O Port Descriptor, 16-bit decode. */
export function ioPorts({ base, size }: Range): Aml {
  return [0x47, 1, ...littleEndian(base, 2), ...littleEndian(base, 2), 1, size];
}

/** §6.4.3.4 32-Bit Fixed Memory Range Descriptor, writable. */
export function memory32Fixed({ base, size }: Range): Aml {
  return [0x86, 9, 0, READ_WRITE, ...littleEndian(base, 4), ...littleEndian(size, 4)];
}

/** §6.4.3.6 Extended Interrupt Descriptor: one GSI, edge triggered, active high, not shared. */
export function edgeInterrupt(gsi: number): Aml {
  return interrupt(gsi, CONSUMER_EDGE_HIGH_EXCLUSIVE);
}

/** The same, level triggered, active high, shared. */
export function levelInterrupt(gsi: number): Aml {
  return interrupt(gsi, CONSUMER_LEVEL_HIGH_SHARED);
}

function interrupt(gsi: number, flags: number): Aml {
  return [0x89, 6, 0, flags, 1, ...littleEndian(gsi, 4)];
}

/** §6.4.3.5.3 Word Address Space Descriptor of bus numbers. */
export function busNumbers(range: Range): Aml {
  return addressSpace(0x88, 2, BUS_NUMBER_RANGE, 0, range);
}

/** §6.4.3.5.3 Word Address Space Descriptor of I/O ports. */
export function ioWindow(range: Range): Aml {
  return addressSpace(0x88, 2, IO_RANGE, ENTIRE_RANGE, range);
}

/** §6.4.3.5.2 DWord Address Space Descriptor of memory that is not prefetchable. */
export function memoryWindow32(range: Range): Aml {
  return addressSpace(0x87, 4, MEMORY_RANGE, READ_WRITE, range);
}

/** §6.4.3.5.1 QWord Address Space Descriptor of prefetchable memory. */
export function memoryWindow64(range: Range): Aml {
  return addressSpace(0x8a, 8, MEMORY_RANGE, PREFETCHABLE | READ_WRITE, range);
}

function addressSpace(tag: number, width: number, type: number, flags: number, range: Range): Aml {
  const granularity = 0;
  const translation = 0;
  const last = range.base + range.size - 1;
  const numbers = [granularity, range.base, last, translation, range.size];
  return [
    tag,
    ...littleEndian(3 + 5 * width, 2),
    type,
    PRODUCER_MIN_MAX_FIXED,
    flags,
    ...numbers.flatMap((value) => littleEndian(value, width)),
  ];
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** True for 8-4-4-4-12 hexadecimal digits. */
export function isUuid(text: string): boolean {
  return UUID.test(text);
}

/**
 * The 16 bytes of a UUID: its first three fields little-endian, the rest in the order of the text
 * (ACPI 6.5 §19.6.143, SMBIOS 3.7 §7.2.1).
 */
export function uuidBytes(text: string): Uint8Array {
  if (!isUuid(text)) throw new InternalError(`UUID ${text}`);
  const bytes = Uint8Array.from(Buffer.from(text.replaceAll('-', ''), 'hex'));
  bytes.subarray(0, 4).reverse();
  bytes.subarray(4, 6).reverse();
  bytes.subarray(6, 8).reverse();
  return bytes;
}
