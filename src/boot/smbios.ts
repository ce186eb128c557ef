/** SMBIOS tables, where Linux looks for them without EFI: on a 16-byte boundary of F000:0000 to F000:FFFF. */
import * as abi from '../abi/smbios.ts';
import { InternalError } from '../host/errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { SMBIOS_GPA, SMBIOS_LIMIT } from './boot-layout.ts';
import type { SmbiosOptions } from './smbios-options.ts';
import { smbiosStructures } from './smbios-structures.ts';

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
