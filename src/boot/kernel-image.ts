/** Which kind of kernel image a file is, and what a bzImage's setup header says. */
import {
  BOOT_FLAG_MAGIC,
  COMMAND_LINE_SIZE,
  DEFAULT_SETUP_SECTS,
  LOADED_HIGH,
  PROTOCOL_CMDLINE_SIZE,
  PROTOCOL_INIT_SIZE,
  PROTOCOL_PAYLOAD,
  PROTOCOL_XLOADFLAGS,
  SECTOR_SIZE,
  SETUP_HEADER_MAGIC,
  SETUP_HEADER_OFFSET,
  setup_header,
  XLF_KERNEL_64,
} from '../abi/linux-boot.ts';
import { UsageError } from '../host/errors.ts';
import { type ByteSource, readView, truncated } from './byte-source.ts';
import { ELF_MAGIC } from './elf.ts';

/** The setup header ends here at the latest: the e820 table follows. */
const SETUP_HEADER_LIMIT = 0x290;
/** Bytes that `kernelKind` and `parseBzImage` look at. */
const HEAD_SIZE = SETUP_HEADER_LIMIT;

/** A checked setup header. */
export interface BzImage {
  /** The setup header as it goes into the zero page at SETUP_HEADER_OFFSET. */
  readonly header: Uint8Array;
  /** Boot protocol version, e.g. 0x20f. */
  readonly version: number;
  /** File offset and length of the protected-mode code. */
  readonly codeOffset: number;
  readonly codeSize: number;
  /** File offset and length of the compressed vmlinux, with its trailing length. */
  readonly payloadOffset: number;
  readonly payloadSize: number;
  /** Longest command line, without NUL. */
  readonly commandLineSize: number;
  /** Highest address that the initrd's last byte may have. */
  readonly initrdAddrMax: number;
  /** Where the kernel likes to run, and how much memory from there it needs to unpack itself. */
  readonly prefAddress: number;
  readonly initSize: number;
  /** True when the compressed kernel has a 64-bit entry point. */
  readonly entry64: boolean;
}

/** @throws UsageError E_NOT_A_KERNEL when it is neither, E_TRUNCATED when it is too short to tell */
export function kernelKind(source: ByteSource): 'elf' | 'bzimage' {
  if (source.size >= 4 && readView(source, 0, 4).getUint32(0, true) === ELF_MAGIC) return 'elf';
  if (source.size >= HEAD_SIZE) {
    const head = readView(source, SETUP_HEADER_OFFSET, setup_header.size);
    if (head.getUint32(setup_header.header.offset, true) === SETUP_HEADER_MAGIC) return 'bzimage';
  }
  throw new UsageError(
    'E_NOT_A_KERNEL',
    `${source.name} is not a kernel: it is neither a bzImage nor ELF; name a vmlinuz or vmlinux`,
  );
}

/**
 * Reads and checks the setup header of a bzImage.
 * @throws UsageError; no file content leads to any other error
 */
export function parseBzImage(source: ByteSource): BzImage {
  const head = readView(source, 0, HEAD_SIZE);
  const at = (field: keyof typeof setup_header & string): number => {
    const entry = setup_header[field];
    return SETUP_HEADER_OFFSET + (typeof entry === 'number' ? entry : entry.offset);
  };
  const u16 = (field: Parameters<typeof at>[0]): number => head.getUint16(at(field), true);
  const u32 = (field: Parameters<typeof at>[0]): number => head.getUint32(at(field), true);
  const bad = (why: string): UsageError =>
    new UsageError(
      'E_NOT_A_KERNEL',
      `${source.name} is not a bzImage that can be booted: ${why}; name an x86-64 kernel`,
    );

  if (u32('header') !== SETUP_HEADER_MAGIC || u16('boot_flag') !== BOOT_FLAG_MAGIC) {
    throw bad('its setup header is damaged');
  }
  const version = u16('version');
  if (version < PROTOCOL_PAYLOAD) {
    throw bad(`its boot protocol ${version.toString(16)} is older than 2.08`);
  }
  if ((head.getUint8(at('loadflags')) & LOADED_HIGH) === 0) throw bad('it is a zImage');

  const sectors = head.getUint8(at('setup_sects')) || DEFAULT_SETUP_SECTS;
  const codeOffset = (sectors + 1) * SECTOR_SIZE;
  const payloadOffset = codeOffset + u32('payload_offset');
  const payloadSize = u32('payload_length');
  const end = Math.max(payloadOffset + payloadSize, codeOffset);
  if (end > source.size) throw truncated(source.name, end, source.size);
  if (payloadSize < 8) throw bad('it has no payload');

  // The byte at 0x201 is the offset of a short jump over the header: where the header ends.
  const headerEnd = Math.min(0x202 + head.getUint8(0x201), SETUP_HEADER_LIMIT);
  const header = new Uint8Array(head.buffer, SETUP_HEADER_OFFSET, headerEnd - SETUP_HEADER_OFFSET);
  const prefAddress = head.getBigUint64(at('pref_address'), true);
  const initSize = u32('init_size');
  return {
    header,
    version,
    codeOffset,
    // What follows the code, such as a signature, is not loaded.
    codeSize: Math.min(u32('syssize') * 16, source.size - codeOffset),
    payloadOffset,
    payloadSize,
    commandLineSize: version >= PROTOCOL_CMDLINE_SIZE ? u32('cmdline_size') : COMMAND_LINE_SIZE - 1,
    initrdAddrMax: u32('initrd_addr_max'),
    // As doubles: what lies beyond 2^53 is rounded, and is no RAM either way.
    prefAddress: Number(prefAddress),
    initSize,
    entry64:
      version >= PROTOCOL_XLOADFLAGS &&
      version >= PROTOCOL_INIT_SIZE &&
      (u16('xloadflags') & XLF_KERNEL_64) !== 0 &&
      initSize > 0,
  };
}
