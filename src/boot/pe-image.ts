/** PE images (Microsoft PE Format), which EFI runs: for what processor, and whether a kernel is inside. */
import { type ByteSource, readView } from './byte-source.ts';

/** Headers lie in the first pages of a file. */
const HEAD_SIZE = 0x1_0000;
const MZ_MAGIC = 0x5a4d;
const PE_OFFSET = 0x3c;
const PE_MAGIC = 0x0000_4550;
/** COFF file header, from the magic on. */
const MACHINE = 4;
const NUMBER_OF_SECTIONS = 6;
const SIZE_OF_OPTIONAL_HEADER = 20;
const SECTION_TABLE = 24;
const SECTION_HEADER_SIZE = 40;
const SECTION_NAME_SIZE = 8;

const MACHINES: Readonly<Record<number, string>> = {
  332: '32-bit x86',
  448: 'Arm',
  452: 'Arm',
  20530: 'RISC-V',
  20580: 'RISC-V',
  25188: 'LoongArch',
  34404: 'x86-64',
  43620: 'AArch64',
};

/** The relevant header fields. */
export interface PeImage {
  /** The processor's name, as far as it is known. */
  readonly machine: string;
  readonly sections: readonly string[];
}

/** @returns undefined when the file is not a PE image */
export function parsePe(source: ByteSource): PeImage | undefined {
  const head = readView(source, 0, Math.min(source.size, HEAD_SIZE));
  const has = (end: number): boolean => end <= head.byteLength;
  if (!has(PE_OFFSET + 4) || head.getUint16(0, true) !== MZ_MAGIC) return undefined;
  const pe = head.getUint32(PE_OFFSET, true);
  if (!has(pe + SECTION_TABLE) || head.getUint32(pe, true) !== PE_MAGIC) return undefined;
  const machine = head.getUint16(pe + MACHINE, true);
  const table = pe + SECTION_TABLE + head.getUint16(pe + SIZE_OF_OPTIONAL_HEADER, true);
  const count = head.getUint16(pe + NUMBER_OF_SECTIONS, true);
  const sections: string[] = [];
  for (let index = 0; index < count; index++) {
    const at = table + index * SECTION_HEADER_SIZE;
    if (!has(at + SECTION_HEADER_SIZE)) break;
    const bytes = new Uint8Array(head.buffer, head.byteOffset + at, SECTION_NAME_SIZE);
    sections.push(Buffer.from(bytes).toString('latin1').replace(/\0.*$/s, ''));
  }
  return { machine: MACHINES[machine] ?? `number ${machine}`, sections };
}
