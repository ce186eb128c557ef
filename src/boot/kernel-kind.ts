/** Which kind of kernel image a file is. */
import { gunzipSync } from 'node:zlib';
import { ELF_MAGIC } from '../abi/elf.ts';
import { SETUP_HEADER_MAGIC, SETUP_HEADER_OFFSET, setup_header } from '../abi/linux-boot.ts';
import { UsageError } from '../host/errors.ts';
import { MiB } from '../memory/ram-layout.ts';
import { BufferSource, type ByteSource, readView } from './byte-source.ts';
import { parseElf } from './elf.ts';
import { identifyForeignImage } from './foreign-image.ts';
import { parseBzImage } from './kernel-image.ts';

const GZIP_MAGIC = 0x8b1f;
/** How much is unpacked at most to identify the content. */
const LARGEST_GZIP = 64 * MiB;
const LARGEST_UNPACKED = 256 * MiB;

export type KernelKind = 'elf' | 'bzimage';

/** @throws UsageError E_NOT_A_KERNEL when it is neither; the message says what it is, and what to use instead */
export function kernelKind(source: ByteSource): KernelKind {
  const kind = recognize(source);
  if (kind !== undefined) return kind;
  throw insideGzip(source) ?? notAKernel(source);
}

function recognize(source: ByteSource): KernelKind | undefined {
  const word = (at: number): number | undefined =>
    at + 4 <= source.size ? readView(source, at, 4).getUint32(0, true) : undefined;
  if (word(0) === ELF_MAGIC) return 'elf';
  const magic = word(SETUP_HEADER_OFFSET + setup_header.header.offset);
  return magic === SETUP_HEADER_MAGIC ? 'bzimage' : undefined;
}

function notAKernel(source: ByteSource): UsageError {
  const foreign = identifyForeignImage(source);
  return new UsageError(
    'E_NOT_A_KERNEL',
    foreign === undefined
      ? `${source.name} is not a kernel: it is neither a bzImage nor ELF; use a vmlinuz or vmlinux`
      : `${source.name} is ${foreign.what}; ${foreign.remedy}`,
  );
}

/** The error for a gzip file's content. Undefined if it is worth unpacking, or not a gzip file. */
function insideGzip(source: ByteSource): UsageError | undefined {
  const inside = gunzip(source);
  if (inside === undefined) return undefined;
  try {
    const kind = recognize(inside);
    if (kind === 'elf') parseElf(inside);
    else if (kind === 'bzimage') parseBzImage(inside);
    else if (identifyForeignImage(inside) !== undefined) return notAKernel(inside);
    return undefined;
  } catch (error) {
    if (error instanceof UsageError) return error;
    throw error;
  }
}

function gunzip(source: ByteSource): ByteSource | undefined {
  if (source.size < 2 || source.size > LARGEST_GZIP) return undefined;
  if (readView(source, 0, 2).getUint16(0, true) !== GZIP_MAGIC) return undefined;
  const packed = readView(source, 0, source.size);
  try {
    const bytes = gunzipSync(packed, { maxOutputLength: LARGEST_UNPACKED });
    return new BufferSource(bytes, `${source.name}, unpacked,`);
  } catch {
    return undefined;
  }
}
