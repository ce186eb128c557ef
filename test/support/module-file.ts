/** Kernel modules without code. */

/** The smallest ELF-64 object with a `.modinfo`. */
export function moduleFile(...info: readonly string[]): Buffer {
  const modinfo = Buffer.from(info.map((text) => `${text}\0`).join(''));
  const names = Buffer.from('\0.modinfo\0.shstrtab\0');
  const sections = Buffer.alloc(3 * 64);
  const section = (index: number, name: number, offset: number, size: number): void => {
    sections.writeUInt32LE(name, index * 64);
    sections.writeBigUInt64LE(BigInt(offset), index * 64 + 0x18);
    sections.writeBigUInt64LE(BigInt(size), index * 64 + 0x20);
  };
  section(1, 1, 64, modinfo.length);
  section(2, 10, 64 + modinfo.length, names.length);
  const header = Buffer.alloc(64);
  header.writeUInt32BE(0x7f454c46);
  header[4] = 2;
  header.writeBigUInt64LE(BigInt(64 + modinfo.length + names.length), 0x28);
  header.writeUInt16LE(64, 0x3a);
  header.writeUInt16LE(3, 0x3c);
  header.writeUInt16LE(2, 0x3e);
  return Buffer.concat([header, modinfo, names, sections]);
}
