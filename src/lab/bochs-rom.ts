/**
 * The firmware of the lab's Intel machine: from the reset vector straight into the kernel, which
 * lies in RAM already. Emulated one instruction at a time, a BIOS and a boot loader would take
 * longer than the kernel does.
 */
import type { CpuEntryState } from '../boot/boot-layout.ts';

/** A system ROM ends at 4 GiB (Intel SDM vol. 3 §10.1.4). */
const ROM_SIZE = 0x1_0000;
const ROM_BASE = 2 ** 32 - ROM_SIZE;
const RESET_VECTOR = 0xfff0;

/** Places in the ROM. */
const GDT = 0x100;
const GDT_POINTER = 0x140;
const REAL_MODE = 0x200;
const PROTECTED_MODE = 0x280;
const LONG_MODE = 0x300;

/** The GDT's selectors; those of 64-bit code and data are what Linux's boot protocol fixes. */
const CODE32 = 0x08;
const CODE64 = 0x10;
const DATA = 0x18;
const GDT_ENTRIES = [
  [0, 0, 0, 0, 0, 0, 0, 0],
  [0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0], // 4 GiB of 32-bit code
  [0xff, 0xff, 0, 0, 0, 0x9b, 0xaf, 0], // 64-bit code
  [0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0], // 4 GiB of data
];

const IA32_MISC_ENABLE = 0x1a0;
const FAST_STRINGS = 1;
const IA32_MTRR_DEF_TYPE = 0x2ff;
/** MTRRs on, everything write-back. */
const MTRR_WRITE_BACK = 0x806;
const IA32_EFER = 0xc000_0080;

const le16 = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff];
const le32 = (value: number): number[] => [...le16(value & 0xffff), ...le16(value >>> 16)];

/**
 * Makes the ROM.
 * @param entry where the kernel begins, in long mode
 * @param touch the range of RAM whose bytes at each step it reads first, in their order
 */
export function resetRom(
  entry: CpuEntryState,
  touch: { readonly start: number; readonly end: number; readonly step: number },
): Buffer {
  const rom = Buffer.alloc(ROM_SIZE, 0xff);
  const put = (at: number, ...code: readonly (readonly number[])[]): void => {
    rom.set(code.flat(), at);
  };
  put(GDT, ...GDT_ENTRIES);
  put(GDT_POINTER, le16(GDT_ENTRIES.length * 8 - 1), le32(ROM_BASE + GDT));
  put(RESET_VECTOR, [0xe9], le16((REAL_MODE - RESET_VECTOR - 3) & 0xffff)); // jmp REAL_MODE
  put(
    REAL_MODE,
    [0xfa], // cli
    [0x66, 0x2e, 0x0f, 0x01, 0x16], // lgdtl %cs:GDT_POINTER
    le16(GDT_POINTER),
    [0x0f, 0x20, 0xc0], // mov %cr0, %eax
    [0x0c, 0x01], // or $PE, %al
    [0x0f, 0x22, 0xc0], // mov %eax, %cr0
    [0x66, 0xea], // ljmpl $CODE32, $PROTECTED_MODE
    le32(ROM_BASE + PROTECTED_MODE),
    le16(CODE32),
  );
  put(
    PROTECTED_MODE,
    [0x66, 0xb8], // mov $DATA, %ax
    le16(DATA),
    [0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0], // mov %ax, %ds, %es, %ss
    [0xbe], // mov $start, %esi
    le32(touch.start),
    [0x8a, 0x06], // 1: mov (%esi), %al
    [0x81, 0xc6], // add $step, %esi
    le32(touch.step),
    [0x81, 0xfe], // cmp $end, %esi
    le32(touch.end),
    [0x72, 0xf0], // jb 1b
    // What a BIOS switches on: without it Linux copies byte by byte and maps nothing write-back.
    [0xb9], // mov $IA32_MISC_ENABLE, %ecx
    le32(IA32_MISC_ENABLE),
    [0x0f, 0x32], // rdmsr
    [0x0c, FAST_STRINGS], // or $FAST_STRINGS, %al
    [0x0f, 0x30], // wrmsr
    [0xb9], // mov $IA32_MTRR_DEF_TYPE, %ecx
    le32(IA32_MTRR_DEF_TYPE),
    [0xb8], // mov $MTRR_WRITE_BACK, %eax
    le32(MTRR_WRITE_BACK),
    [0x31, 0xd2], // xor %edx, %edx
    [0x0f, 0x30], // wrmsr
    [0xb8], // mov $cr4, %eax
    le32(entry.cr4),
    [0x0f, 0x22, 0xe0], // mov %eax, %cr4
    [0xb8], // mov $cr3, %eax
    le32(entry.cr3),
    [0x0f, 0x22, 0xd8], // mov %eax, %cr3
    [0xb9], // mov $IA32_EFER, %ecx
    le32(IA32_EFER),
    [0xb8], // mov $efer, %eax; the processor sets LMA itself
    le32(entry.efer),
    [0x31, 0xd2], // xor %edx, %edx
    [0x0f, 0x30], // wrmsr
    [0xb8], // mov $cr0, %eax
    le32(entry.cr0),
    [0x0f, 0x22, 0xc0], // mov %eax, %cr0
    [0xea], // ljmp $CODE64, $LONG_MODE
    le32(ROM_BASE + LONG_MODE),
    le16(CODE64),
  );
  put(
    LONG_MODE,
    [0xbe], // mov $rsi, %esi
    le32(entry.rsi),
    [0xb8], // mov $rip, %eax
    le32(entry.rip),
    [0xff, 0xe0], // jmp *%rax
  );
  return rom;
}
