/**
 * What a boot loader and an x86 Linux kernel exchange: the setup header and the zero page
 * (Documentation/arch/x86/boot.rst, zero-page.rst; asm/bootparam.h), and the PVH start info
 * (Xen's public/arch-x86/hvm/start_info.h).
 */
import { struct } from './struct.ts';

/** Where struct setup_header lies, both in a bzImage and in the zero page. */
export const SETUP_HEADER_OFFSET = 0x1f1;

/** boot.rst, "The Real-Mode Kernel Header". Offsets count from SETUP_HEADER_OFFSET. */
export const setup_header = struct(
  {
    setup_sects: 1,
    root_flags: 2,
    syssize: 4,
    ram_size: 2,
    vid_mode: 2,
    root_dev: 2,
    boot_flag: 2,
    jump: 2,
    header: 4,
    version: 2,
    realmode_swtch: 4,
    start_sys_seg: 2,
    kernel_version: 2,
    type_of_loader: 1,
    loadflags: 1,
    setup_move_size: 2,
    code32_start: 4,
    ramdisk_image: 4,
    ramdisk_size: 4,
    bootsect_kludge: 4,
    heap_end_ptr: 2,
    ext_loader_ver: 1,
    ext_loader_type: 1,
    cmd_line_ptr: 4,
    initrd_addr_max: 4,
    kernel_alignment: 4,
    relocatable_kernel: 1,
    min_alignment: 1,
    xloadflags: 2,
    cmdline_size: 4,
    hardware_subarch: 4,
    hardware_subarch_data: 8,
    payload_offset: 4,
    payload_length: 4,
    setup_data: 8,
    pref_address: 8,
    init_size: 4,
    handover_offset: 4,
    kernel_info_offset: 4,
  },
  true,
);

/** `boot_flag`. */
export const BOOT_FLAG_MAGIC = 0xaa55;
/** `header`: the letters HdrS. */
export const SETUP_HEADER_MAGIC = 0x53726448;
/** First protocol version with `cmdline_size`. */
export const PROTOCOL_CMDLINE_SIZE = 0x206;
/** First protocol version with `payload_offset` and `payload_length`. */
export const PROTOCOL_PAYLOAD = 0x208;
/** First protocol version with `pref_address` and `init_size`. */
export const PROTOCOL_INIT_SIZE = 0x20a;
/** First protocol version with `xloadflags`. */
export const PROTOCOL_XLOADFLAGS = 0x20c;
/** What an ELF kernel's zero page claims. */
export const PROTOCOL_NEWEST = 0x20f;
/** `type_of_loader`: a loader without an assigned number. */
export const LOADER_TYPE_UNDEFINED = 0xff;
/** `loadflags`: the protected-mode code lies at 1 MiB or above. */
export const LOADED_HIGH = 1;
/** `xloadflags`: the kernel has the 64-bit entry point at 0x200. */
export const XLF_KERNEL_64 = 1;
/** The 64-bit entry point, from the start of the protected-mode code. */
export const ENTRY_64_OFFSET = 0x200;
/** Where bzImages that prefer no other address are loaded. */
export const DEFAULT_LOAD_ADDRESS = 0x10_0000;
/** Unit of `setup_sects`. */
export const SECTOR_SIZE = 512;
/** `setup_sects` when it reads 0. */
export const DEFAULT_SETUP_SECTS = 4;
/** x86's COMMAND_LINE_SIZE with its terminating NUL (asm/setup.h). */
export const COMMAND_LINE_SIZE = 2048;

/** Bytes of struct boot_params, the zero page. */
export const BOOT_PARAMS_SIZE = 4096;
/** boot_params.acpi_rsdp_addr, 8 bytes. */
export const BOOT_PARAMS_ACPI_RSDP_ADDR = 0x070;
/** boot_params.e820_entries, 1 byte. */
export const BOOT_PARAMS_E820_ENTRIES = 0x1e8;
/** boot_params.e820_table. */
export const BOOT_PARAMS_E820_TABLE = 0x2d0;
/** struct boot_e820_entry; `size_` is `size` there. */
export const boot_e820_entry = struct({ addr: 8, size_: 8, type: 4 }, true);
export const E820_MAX_ENTRIES_ZEROPAGE = 128;
export const E820_TYPE_RAM = 1;
export const E820_TYPE_RESERVED = 2;

/** Selectors that the 64-bit boot protocol fixes. */
export const BOOT_CS = 0x10;
export const BOOT_DS = 0x18;

/** Type of the note that holds the PVH entry point, of the owner `Xen` (public/elfnote.h). */
export const XEN_ELFNOTE_PHYS32_ENTRY = 18;
/** Owners of notes, with the NUL. */
export const XEN_ELFNOTE_NAME = 'Xen\0';
/** include/linux/elfnote-lto.h, build-salt.h: every vmlinux since 4.19 has such a note. */
export const LINUX_ELFNOTE_NAME = 'Linux\0';
export const XEN_HVM_START_MAGIC_VALUE = 0x336ec578;
/** struct hvm_start_info, version 1. */
export const hvm_start_info = struct({
  magic: 4,
  version: 4,
  flags: 4,
  nr_modules: 4,
  modlist_paddr: 8,
  cmdline_paddr: 8,
  rsdp_paddr: 8,
  memmap_paddr: 8,
  memmap_entries: 4,
  reserved: 4,
});
/** struct hvm_modlist_entry; `size_` is `size` there. */
export const hvm_modlist_entry = struct({ paddr: 8, size_: 8, cmdline_paddr: 8, reserved: 8 });
/** struct hvm_memmap_table_entry; `size_` is `size` there, the types are e820's. */
export const hvm_memmap_table_entry = struct({ addr: 8, size_: 8, type: 4, reserved: 4 });
