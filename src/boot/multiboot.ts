/** Multiboot headers (Multiboot Specification 0.6.96 §3.1, Multiboot2 Specification 2.0 §3.1), to recognize them. */
import { type ByteSource, readView } from './byte-source.ts';

const MULTIBOOT_HEADER_MAGIC = 0x1bad_b002;
const MULTIBOOT_SEARCH = 8192;
const MULTIBOOT2_HEADER_MAGIC = 0xe852_50d6;
const MULTIBOOT2_SEARCH = 32768;

/** True when the file has a header of either version: magic, two or three more words, sum 0. */
export function isMultiboot(source: ByteSource): boolean {
  const head = readView(source, 0, Math.min(source.size, MULTIBOOT2_SEARCH));
  const word = (at: number): number => head.getUint32(at, true);
  for (let at = 0; at + 16 <= head.byteLength; at += 4) {
    const magic = word(at);
    if (magic === MULTIBOOT_HEADER_MAGIC && at + 12 <= MULTIBOOT_SEARCH) {
      if ((magic + word(at + 4) + word(at + 8)) % 2 ** 32 === 0) return true;
    } else if (magic === MULTIBOOT2_HEADER_MAGIC && at % 8 === 0) {
      if ((magic + word(at + 4) + word(at + 8) + word(at + 12)) % 2 ** 32 === 0) return true;
    }
  }
  return false;
}
