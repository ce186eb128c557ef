/** A guest of a few bytes that a test drives over its serial port: it reads and writes ports and memory. */
import { out } from '../support/fixtures/kernel-image.ts';

const STACK_TOP = 0x30_0000;
const COM1 = 0x3f8;
const LINE_STATUS = 0x3fd;

const dword = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
const movDx = (port: number): number[] => [0x66, 0xba, port & 0xff, port >> 8];

/** al: the next byte. */
const GETC = [
  ...movDx(LINE_STATUS),
  ...[0xec, 0xa8, 0x01, 0x74, 0xfb], // in al, dx; test al, 1; jz -5
  ...movDx(COM1),
  ...[0xec, 0xc3], // in al, dx; ret
];

/** The program, whose parts call each other by their distances. */
function program(): number[] {
  const call = (from: number, to: number): number[] => [0xe8, ...dword(to - from - 5)];
  const getc = 0;
  const getw = GETC.length;
  // mov ecx, 4; call getc; shr ebx, 8; shl eax, 24; or ebx, eax; loop -15; ret
  const GETW = [
    ...[0xb9, ...dword(4)],
    ...call(getw + 5, getc),
    ...[0xc1, 0xeb, 8, 0xc1, 0xe0, 24, 0x09, 0xc3, 0xe2, 0xf1, 0xc3],
  ];
  const putw = getw + GETW.length;
  // mov ecx, 4; mov dx, COM1; mov al, bl; out dx, al; shr ebx, 8; loop -8; ret
  const PUTW = [
    ...[0xb9, ...dword(4)],
    ...movDx(COM1),
    ...[0x88, 0xd8, 0xee, 0xc1, 0xeb, 8, 0xe2, 0xf8, 0xc3],
  ];
  const main = putw + PUTW.length;
  const code = [...GETC, ...GETW, ...PUTW];
  const add = (...bytes: readonly number[]): void => void code.push(...bytes);
  const addCall = (to: number): void => add(...call(code.length, to));
  /** Code for one command; cmp ebp, command; jne past it. */
  const on = (command: string, ...bytes: readonly number[]): void =>
    add(0x83, 0xfd, command.charCodeAt(0), 0x75, bytes.length, ...bytes);
  addCall(getc);
  add(0x0f, 0xb6, 0xe8); // movzx ebp, al
  addCall(getw);
  add(0x89, 0xde); // mov esi, ebx
  addCall(getw);
  add(0x89, 0xf2); // mov edx, esi
  on('o', 0x89, 0xd8, 0xef); // mov eax, ebx; out dx, eax
  on('b', 0x89, 0xd8, 0xee); // mov eax, ebx; out dx, al
  on('i', 0xed, 0x89, 0xc3); // in eax, dx; mov ebx, eax
  on('m', 0x8b, 0x1e); // mov ebx, [esi]
  on('M', 0x89, 0x1e); // mov [esi], ebx
  on('H', 0x66, 0x89, 0x1e); // mov [esi], bx
  on('C', 0x88, 0x1e); // mov [esi], bl
  addCall(putw);
  add(0xe9, ...dword(main - code.length - 5)); // jmp main
  const start = [0xbc, ...dword(STACK_TOP), ...out(COM1, '.'.charCodeAt(0))];
  // mov esp, STACK_TOP; print a dot; jmp main
  return [...start, 0xe9, ...dword(main), ...code];
}

/** Its code. It prints a dot when it is up. */
export const PORT_GUEST: readonly number[] = program();

/** `o`, `b`: write a port, 32 or 8 bits wide; `i`: read one; `M`, `H`, `C`: write memory, 32, 16, or 8 bits wide; `m`: read it. */
export type PortCommand = 'o' | 'b' | 'i' | 'm' | 'M' | 'H' | 'C';

/** The bytes of a request; it is answered with four. */
export function portRequest(command: PortCommand, address: number, value = 0): Buffer {
  return Buffer.from([command.charCodeAt(0), ...dword(address), ...dword(value)]);
}
