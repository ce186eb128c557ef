/** SMBIOS tables, where Linux looks for them without EFI: on a 16-byte boundary of F000:0000 to F000:FFFF. */

import * as abi from '../abi/smbios.ts';
import { InternalError, UsageError } from '../host/errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { RamRegion } from '../memory/ram-layout.ts';
import { list, type OptionSchema, options, text } from '../options/option-schema.ts';
import { isUuid, littleEndian, uuidBytes } from './aml.ts';
import { SMBIOS_GPA, SMBIOS_LIMIT } from './boot-layout.ts';

const ENTRY = abi.SMBIOS3_ENTRY_POINT;
/** Behind the entry point, on the next 16-byte boundary. */
const STRUCTURES_GPA = SMBIOS_GPA + Math.ceil(ENTRY.size / 16) * 16;

/** Writes the entry point and all structures. @param options checked by `checkSmbios` */
export function writeSmbios(memory: GuestMemory, options: SmbiosOptions, cpus: number): void {
  const machine = { cpus, ramSize: memory.size, ramRegions: memory.regions };
  const structures = smbiosStructures(options, machine);
  if (STRUCTURES_GPA + structures.length > SMBIOS_LIMIT) {
    throw new InternalError('SMBIOS tables exceed their room');
  }
  // Guest physical addresses below 3 GiB are RAM offsets.
  memory.bytes(SMBIOS_GPA, SMBIOS_LIMIT - SMBIOS_GPA).fill(0);
  memory.bytes(SMBIOS_GPA, ENTRY.size).set(entryPoint(structures.length));
  memory.bytes(STRUCTURES_GPA, structures.length).set(structures);
}

/** §5.2.2; its bytes sum to 0. */
function entryPoint(structuresSize: number): Uint8Array {
  const bytes = new Uint8Array(ENTRY.size);
  const view = new DataView(bytes.buffer);
  new TextEncoder().encodeInto(abi.SMBIOS3_ANCHOR, bytes);
  bytes[ENTRY.length.offset] = ENTRY.size;
  bytes[ENTRY.majorVersion.offset] = abi.SMBIOS_MAJOR;
  bytes[ENTRY.minorVersion.offset] = abi.SMBIOS_MINOR;
  bytes[ENTRY.entryPointRevision.offset] = abi.ENTRY_POINT_REVISION;
  view.setUint32(ENTRY.structureTableMaximumSize.offset, structuresSize, true);
  view.setUint32(ENTRY.structureTableAddress.offset, STRUCTURES_GPA, true);
  bytes[ENTRY.checksum.offset] = -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
  return bytes;
}

// The structures of the SMBIOS table (DMTF DSP0134 3.0 §7), as a machine without firmware fills them.

const KiB = 2 ** 10;
const MiB = 2 ** 20;

const DEFAULT_MANUFACTURER = 'nodevmm';
const DEFAULT_PRODUCT = 'virtual machine';

/** §7.1.1: characteristics not supported. §7.1.2.2: the tables describe a virtual machine. */
const BIOS_CHARACTERISTICS_NOT_SUPPORTED = 1 << 3;
const BIOS_ACPI = 1 << 0;
const BIOS_VIRTUAL_MACHINE = 1 << 4;
/** Fields without information, by their widths. */
const UNKNOWN_BYTE = 0xff;
const UNKNOWN_WORD = 0xffff;
const NO_ERROR_INFORMATION = 0xfffe;
const WAKE_UP_POWER_SWITCH = 6;
/** Enumerations of §7.4 and §7.5 where nothing better fits. */
const OTHER = 1;
const UNKNOWN = 2;
const STATE_SAFE = 3;
const PROCESSOR_CENTRAL = 3;
const PROCESSOR_POPULATED_ENABLED = 0x41;
const PROCESSOR_64_BIT = 1 << 2;
const NO_CACHE = 0xffff;
/** §7.17: on the board, system memory, no error correction. */
const ARRAY_ON_BOARD = 3;
const ARRAY_SYSTEM_MEMORY = 3;
const ARRAY_NO_ECC = 3;
const ARRAY_CAPACITY_EXTENDED = 0x8000_0000;
/** §7.18. */
const DEVICE_DIMM = 9;
const DEVICE_RAM = 7;
const DEVICE_SIZE_EXTENDED = 0x7fff;

/** What the structures depend on. */
export interface SmbiosMachine {
  readonly cpus: number;
  readonly ramSize: number;
  readonly ramRegions: readonly RamRegion[];
}

/** The strings behind one structure: a field holds the number of its string, or 0 for none. */
class Strings {
  readonly texts: string[] = [];

  add(text: string | undefined): number {
    return text === undefined ? 0 : this.texts.push(text);
  }
}

const word = (value: number): number[] => littleEndian(value, 2);
const dword = (value: number): number[] => littleEndian(value, 4);
const qword = (value: number): number[] => littleEndian(value, 8);

/** §6.1: header, fields, and a set of strings that ends with an empty one. */
function structure(
  type: number,
  index: number,
  fields: (strings: Strings) => readonly number[],
): number[] {
  const strings = new Strings();
  const body = fields(strings);
  const length = abi.STRUCTURE_HEADER_SIZE + body.length;
  const texts = strings.texts.flatMap((text) => [...Buffer.from(text, 'latin1'), 0]);
  const end = texts.length === 0 ? [0, 0] : [0];
  return [type, length, ...word(handle(type, index)), ...body, ...texts, ...end];
}

/** Any number that no other structure has. */
function handle(type: number, index = 0): number {
  return type * 0x100 + index;
}

/** All structures, one behind the other. */
export function smbiosStructures(options: SmbiosOptions, machine: SmbiosMachine): Uint8Array {
  const { oemStrings = [] } = options;
  return Uint8Array.from([
    ...biosInformation(),
    ...systemInformation(options),
    ...systemEnclosure(options),
    ...processorInformation(machine.cpus),
    ...(oemStrings.length === 0 ? [] : oemStringsStructure(oemStrings)),
    ...memoryArray(machine.ramSize),
    ...memoryDevice(machine.ramSize),
    ...machine.ramRegions.flatMap(mappedAddress),
    ...structure(abi.SYSTEM_BOOT_INFORMATION, 0, () => [0, 0, 0, 0, 0, 0, 0]),
    ...structure(abi.END_OF_TABLE, 0, () => []),
  ]);
}

/** §7.1. Without version and date: Linux has quirks by BIOS year, and there is no BIOS. */
function biosInformation(): number[] {
  return structure(abi.BIOS_INFORMATION, 0, (strings) => [
    strings.add(DEFAULT_MANUFACTURER),
    0, // version
    ...word(0), // segment
    0, // date
    0, // ROM of 64 KiB
    ...qword(BIOS_CHARACTERISTICS_NOT_SUPPORTED),
    BIOS_ACPI,
    BIOS_VIRTUAL_MACHINE,
    ...[UNKNOWN_BYTE, UNKNOWN_BYTE], // BIOS release
    ...[UNKNOWN_BYTE, UNKNOWN_BYTE], // embedded controller release
  ]);
}

/** §7.2. A UUID of zeros is none. */
function systemInformation(options: SmbiosOptions): number[] {
  const { manufacturer = DEFAULT_MANUFACTURER, product = DEFAULT_PRODUCT, uuid } = options;
  return structure(abi.SYSTEM_INFORMATION, 0, (strings) => [
    strings.add(manufacturer),
    strings.add(product),
    strings.add(options.version),
    strings.add(options.serial),
    ...(uuid === undefined ? new Uint8Array(16) : uuidBytes(uuid)),
    WAKE_UP_POWER_SWITCH,
    strings.add(options.sku),
    strings.add(options.family),
  ]);
}

/** §7.4. */
function systemEnclosure({ manufacturer, assetTag }: SmbiosOptions): number[] {
  return structure(abi.SYSTEM_ENCLOSURE, 0, (strings) => [
    strings.add(manufacturer ?? DEFAULT_MANUFACTURER),
    OTHER, // type
    0, // version
    0, // serial
    strings.add(assetTag),
    ...[STATE_SAFE, STATE_SAFE, STATE_SAFE], // boot-up, power supply, thermal
    UNKNOWN, // security
    ...dword(0),
    ...[0, 0], // height, power cords
    ...[0, 0], // contained elements
    0, // SKU
  ]);
}

/** §7.5: one socket, whose cores are the vCPUs. */
function processorInformation(cpus: number): number[] {
  return structure(abi.PROCESSOR_INFORMATION, 0, (strings) => [
    strings.add('CPU 0'),
    PROCESSOR_CENTRAL,
    OTHER, // family
    strings.add(DEFAULT_MANUFACTURER),
    ...qword(0), // ID: available from CPUID
    0, // version
    0, // voltage
    ...[...word(0), ...word(0), ...word(0)], // clock and speeds, unknown
    PROCESSOR_POPULATED_ENABLED,
    OTHER, // upgrade
    ...[...word(NO_CACHE), ...word(NO_CACHE), ...word(NO_CACHE)],
    ...[0, 0, 0], // serial, asset tag, part number
    ...[cpus, cpus, cpus], // cores, enabled cores, threads
    ...word(PROCESSOR_64_BIT),
    ...word(OTHER), // family 2
    ...[...word(cpus), ...word(cpus), ...word(cpus)],
  ]);
}

/** §7.12. */
function oemStringsStructure(texts: readonly string[]): number[] {
  return structure(abi.OEM_STRINGS, 0, (strings) => {
    for (const text of texts) strings.add(text);
    return [texts.length];
  });
}

/** §7.17. */
function memoryArray(ramSize: number): number[] {
  return structure(abi.PHYSICAL_MEMORY_ARRAY, 0, () => [
    ARRAY_ON_BOARD,
    ARRAY_SYSTEM_MEMORY,
    ARRAY_NO_ECC,
    ...dword(ARRAY_CAPACITY_EXTENDED),
    ...word(NO_ERROR_INFORMATION),
    ...word(1),
    ...qword(ramSize),
  ]);
}

/** §7.18: all RAM in one device. */
function memoryDevice(ramSize: number): number[] {
  const mebibytes = ramSize / MiB;
  const isExtended = mebibytes >= DEVICE_SIZE_EXTENDED;
  return structure(abi.MEMORY_DEVICE, 0, (strings) => [
    ...word(handle(abi.PHYSICAL_MEMORY_ARRAY)),
    ...word(NO_ERROR_INFORMATION),
    ...[...word(UNKNOWN_WORD), ...word(UNKNOWN_WORD)], // widths
    ...word(isExtended ? DEVICE_SIZE_EXTENDED : mebibytes),
    DEVICE_DIMM,
    0, // set
    strings.add('DIMM 0'),
    0, // bank
    DEVICE_RAM,
    ...word(1 << OTHER),
    ...word(0), // speed
    strings.add(DEFAULT_MANUFACTURER),
    ...[0, 0, 0], // serial, asset tag, part number
    0, // rank
    ...dword(isExtended ? mebibytes : 0),
    ...word(0), // configured speed
    ...[...word(0), ...word(0), ...word(0)], // voltages
  ]);
}

/** §7.20: in KiB, both ends included. */
function mappedAddress({ gpa, size }: RamRegion, index: number): number[] {
  return structure(abi.MEMORY_ARRAY_MAPPED_ADDRESS, index, () => [
    ...dword(gpa / KiB),
    ...dword((gpa + size) / KiB - 1),
    ...word(handle(abi.PHYSICAL_MEMORY_ARRAY)),
    1, // partition width
    ...[...qword(0), ...qword(0)], // addresses beyond 4 TiB
  ]);
}

/** Strings of the SMBIOS tables, which Linux shows below /sys/class/dmi/id. */
export interface SmbiosOptions {
  /** sys_vendor. Default `nodevmm`. */
  readonly manufacturer?: string;
  /** product_name. Default `virtual machine`. */
  readonly product?: string;
  /** product_version. Default none. */
  readonly version?: string;
  /** product_serial, where cloud-init looks for `ds=nocloud;...`. Default none. */
  readonly serial?: string;
  /** product_uuid, as 8-4-4-4-12 hexadecimal digits. Default none. */
  readonly uuid?: string;
  /** product_sku. Default none. */
  readonly sku?: string;
  /** product_family. Default none. */
  readonly family?: string;
  /** chassis_asset_tag. Default none. */
  readonly assetTag?: string;
  /** OEM strings, where systemd looks for `io.systemd.credential:...`. At most 255. Default none. */
  readonly oemStrings?: readonly string[];
}

export const SMBIOS: OptionSchema<SmbiosOptions> = options<SmbiosOptions>(
  {},
  {
    manufacturer: text(),
    product: text(),
    version: text(),
    serial: text(),
    uuid: text(),
    sku: text(),
    family: text(),
    assetTag: text(),
    oemStrings: list(text(), { key: 'oem-string' }),
  },
  { code: 'E_SMBIOS' },
);

/** The tables have 64 KiB, and need less than 1 KiB for everything else. */
const STRINGS_MAX = 48 * 1024;
/** A structure counts its strings in one byte. */
const OEM_STRINGS_MAX = 255;

/** @throws UsageError E_SMBIOS naming the string */
export function checkSmbios(options: SmbiosOptions): void {
  const { uuid, oemStrings = [], ...named } = options;
  const refuse = (what: string, remedy: string): never => {
    throw new UsageError('E_SMBIOS', `SMBIOS: ${what}`, remedy);
  };
  if (uuid !== undefined && !isUuid(uuid)) {
    refuse(`the uuid ${printable(uuid)} is invalid`, 'use 8-4-4-4-12 hexadecimal digits');
  }
  const strings: [string, string][] = Object.entries(named);
  strings.push(...oemStrings.map((text): [string, string] => ['OEM string', text]));
  for (const [name, text] of strings) {
    if (text === '') refuse(`the ${name} is empty`, 'leave it out');
    if (!/^[\x20-\x7e]*$/.test(text)) {
      refuse(
        `the ${name} ${printable(text)} has characters that are not printable ASCII`,
        'remove them',
      );
    }
  }
  if (oemStrings.length > OEM_STRINGS_MAX) {
    refuse(`${oemStrings.length} OEM strings are too many`, `the maximum is ${OEM_STRINGS_MAX}`);
  }
  const bytes = strings.reduce((sum, [, text]) => sum + text.length + 1, 0);
  if (bytes > STRINGS_MAX) {
    refuse(`the strings have ${bytes} bytes, more than ${STRINGS_MAX}`, 'shorten them');
  }
}

/** For messages of one line. */
function printable(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}...` : text);
}
