/** SMBIOS structures (DMTF DSP0134 3.0): types, and layouts of the 64-bit entry point and the header of each structure. */
import { struct } from './struct.ts';

export const SMBIOS_MAJOR = 3;
export const SMBIOS_MINOR = 0;

/** §5.2.2, 64-bit entry point. */
export const SMBIOS3_ANCHOR = '_SM3_';
export const SMBIOS3_ENTRY_POINT = struct(
  {
    anchor: [1, 5],
    checksum: 1,
    length: 1,
    majorVersion: 1,
    minorVersion: 1,
    docrev: 1,
    entryPointRevision: 1,
    reserved: 1,
    structureTableMaximumSize: 4,
    structureTableAddress: 8,
  },
  true,
);
export const ENTRY_POINT_REVISION = 1;

/** §6.1.2: type, length and handle. */
export const STRUCTURE_HEADER_SIZE = 4;

/** §7, structure types. */
export const BIOS_INFORMATION = 0;
export const SYSTEM_INFORMATION = 1;
export const SYSTEM_ENCLOSURE = 3;
export const PROCESSOR_INFORMATION = 4;
export const OEM_STRINGS = 11;
export const PHYSICAL_MEMORY_ARRAY = 16;
export const MEMORY_DEVICE = 17;
export const MEMORY_ARRAY_MAPPED_ADDRESS = 19;
export const SYSTEM_BOOT_INFORMATION = 32;
export const END_OF_TABLE = 127;
