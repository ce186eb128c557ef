/** The zero page, struct boot_params (zero-page.rst): what the 32-bit and the 64-bit boot protocol tell the kernel. */
import {
  BOOT_FLAG_MAGIC,
  BOOT_PARAMS_ACPI_RSDP_ADDR,
  BOOT_PARAMS_E820_ENTRIES,
  BOOT_PARAMS_E820_TABLE,
  BOOT_PARAMS_SIZE,
  boot_e820_entry,
  LOADED_HIGH,
  LOADER_TYPE_UNDEFINED,
  PROTOCOL_NEWEST,
  SETUP_HEADER_MAGIC,
  SETUP_HEADER_OFFSET,
  setup_header,
} from '../abi/linux-boot.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { BOOT_PARAMS_GPA, COMMAND_LINE_GPA, type MemoryMapEntry } from './boot-layout.ts';

/** What the protocols pass on to the kernel. */
export interface ZeroPageParameters {
  readonly memoryMap: readonly MemoryMapEntry[];
  readonly initrd: { readonly gpa: number; readonly size: number } | undefined;
  readonly rsdpGpa: number;
  /** Where the kernel was loaded. */
  readonly kernelGpa: number;
  /** The bzImage's setup header; undefined for an ELF kernel, which brings none. */
  readonly header: Uint8Array | undefined;
}

/** Writes the zero page. The command line is in place already. */
export function writeZeroPage(
  memory: GuestMemory,
  { memoryMap, initrd, rsdpGpa, kernelGpa, header }: ZeroPageParameters,
): void {
  // Guest physical addresses below 3 GiB are RAM offsets.
  const page = memory.bytes(BOOT_PARAMS_GPA, BOOT_PARAMS_SIZE).fill(0);
  const setup = BOOT_PARAMS_GPA + SETUP_HEADER_OFFSET;
  if (header !== undefined) {
    page.set(header, SETUP_HEADER_OFFSET);
  } else {
    memory.writeU16(setup + setup_header.boot_flag.offset, BOOT_FLAG_MAGIC);
    memory.writeU32(setup + setup_header.header.offset, SETUP_HEADER_MAGIC);
    memory.writeU16(setup + setup_header.version.offset, PROTOCOL_NEWEST);
    memory.writeU8(setup + setup_header.loadflags.offset, LOADED_HIGH);
  }
  memory.writeU8(setup + setup_header.type_of_loader.offset, LOADER_TYPE_UNDEFINED);
  // boot.rst, `code32_start`: to be changed by a loader that loads the kernel elsewhere.
  memory.writeU32(setup + setup_header.code32_start.offset, kernelGpa);
  memory.writeU32(setup + setup_header.cmd_line_ptr.offset, COMMAND_LINE_GPA);
  memory.writeU32(setup + setup_header.ramdisk_image.offset, initrd?.gpa ?? 0);
  memory.writeU32(setup + setup_header.ramdisk_size.offset, initrd?.size ?? 0);
  memory.writeU64(BOOT_PARAMS_GPA + BOOT_PARAMS_ACPI_RSDP_ADDR, rsdpGpa);
  memory.writeU8(BOOT_PARAMS_GPA + BOOT_PARAMS_E820_ENTRIES, memoryMap.length);
  memoryMap.forEach(({ gpa, size, type }, index) => {
    const at = BOOT_PARAMS_GPA + BOOT_PARAMS_E820_TABLE + index * boot_e820_entry.size;
    memory.writeU64(at + boot_e820_entry.addr.offset, gpa);
    memory.writeU64(at + boot_e820_entry.size_.offset, size);
    memory.writeU32(at + boot_e820_entry.type.offset, type);
  });
}
