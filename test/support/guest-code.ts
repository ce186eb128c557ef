/** Pieces of machine code for guests of a few bytes: 32-bit, as PVH enters it. */
import { KERNEL_GPA } from './kernel-image.ts';

/** hlt; jmp -3 */
export const HALT: readonly number[] = [0xf4, 0xeb, 0xfd];

/** Writes a byte to a port. */
export const out = (port: number, byte: number): number[] => [
  ...[0x66, 0xba, port & 0xff, port >> 8], // mov dx, port
  ...[0xb0, byte, 0xee], // mov al, byte; out dx, al
];

/** Prints on the serial port. */
export const print = (text: string): number[] =>
  [...Buffer.from(text)].flatMap((byte) => out(0x3f8, byte));

/** Ends with a panic, by pvpanic. */
export const PANIC: readonly number[] = [...out(0x505, 1), ...HALT];

const word = (value: number): Uint8Array => new Uint8Array(Uint32Array.of(value).buffer);

/**
 * Prints so many times 16 bytes on the serial port, each after it waited for THRE, as Linux does.
 * To be the first piece of a kernel: it knows its own address.
 */
export const printMuch = (times: number): number[] => [
  ...[0xeb, 16, ...Buffer.from('0123456789abcdef')], // jmp over the text
  ...[0xbb, ...word(times)], // mov ebx, times
  ...[0x66, 0xba, 0xfd, 0x03], // mov dx, 0x3fd
  ...[0xec, 0xa8, 0x20], // in al, dx; test al, 0x20
  ...[0x74, 0xfb], // jz -5
  ...[0x66, 0xba, 0xf8, 0x03], // mov dx, 0x3f8
  ...[0xbe, ...word(KERNEL_GPA + 2)], // mov esi, the text
  ...[0xb9, ...word(16)], // mov ecx, 16
  ...[0xf3, 0x6e], // rep outsb
  ...[0x4b, 0x75, 0xe4], // dec ebx; jnz -28
];
