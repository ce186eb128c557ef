/** The setup header of a bzImage. */
import {
  BOOT_FLAG_MAGIC,
  COMMAND_LINE_SIZE,
  DEFAULT_LOAD_ADDRESS,
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

/** The setup header ends here at the latest: the e820 table follows. */
const SETUP_HEADER_LIMIT = 0x290;

/** A checked setup header. */
export interface BzImage {
  /** The setup header as it goes into the zero page at SETUP_HEADER_OFFSET. */
  readonly header: Uint8Array;
  /** Boot protocol version, e.g. 0x20f. */
  readonly version: number;
  /** File offset and length of the protected-mode code. */
  readonly codeOffset: number;
  readonly codeSize: number;
  /**
   * File offset and length of the compressed vmlinux, with its trailing length. A length of 0: the
   * code is no kernel that unpacks itself.
   */
  readonly payloadOffset: number;
  readonly payloadSize: number;
  /** Longest command line, without NUL. */
  readonly commandLineSize: number;
  /** Highest address that the initrd's last byte may have. */
  readonly initrdAddrMax: number;
  /** Where the kernel likes to run, and how much memory from there it needs to unpack itself; 0: not said. */
  readonly prefAddress: number;
  readonly initSize: number;
  /** True when the compressed kernel has a 64-bit entry point. */
  readonly entry64: boolean;
}

/**
 * Reads and checks the setup header of a bzImage.
 * @throws UsageError; no file content leads to any other error
 */
export function parseBzImage(source: ByteSource): BzImage {
  const head = readView(source, 0, SETUP_HEADER_LIMIT);
  const at = (field: keyof typeof setup_header & string): number => {
    const entry = setup_header[field];
    return SETUP_HEADER_OFFSET + (typeof entry === 'number' ? entry : entry.offset);
  };
  const u16 = (field: Parameters<typeof at>[0]): number => head.getUint16(at(field), true);
  const u32 = (field: Parameters<typeof at>[0]): number => head.getUint32(at(field), true);
  const bad = (why: string): UsageError =>
    new UsageError(
      'E_NOT_A_KERNEL',
      `${source.name} is not a bootable bzImage: ${why}; use a kernel for x86`,
    );

  if (u32('header') !== SETUP_HEADER_MAGIC || u16('boot_flag') !== BOOT_FLAG_MAGIC) {
    throw bad('its setup header is damaged');
  }
  const version = u16('version');
  if (version < PROTOCOL_PAYLOAD) {
    const text = `${version >> 8}.${(version & 0xff).toString(16).padStart(2, '0')}`;
    throw bad(`its boot protocol ${text} is older than 2.08`);
  }
  if ((head.getUint8(at('loadflags')) & LOADED_HIGH) === 0) throw bad('it is a zImage');

  const sectors = head.getUint8(at('setup_sects')) || DEFAULT_SETUP_SECTS;
  const codeOffset = (sectors + 1) * SECTOR_SIZE;
  const payloadOffset = codeOffset + u32('payload_offset');
  const payloadSize = u32('payload_length');
  // syssize counts units of 16 bytes, of which the last need not be whole.
  const codeEnd = codeOffset + Math.max(0, u32('syssize') * 16 - 15);
  const end = payloadSize > 0 ? Math.max(payloadOffset + payloadSize, codeOffset) : codeEnd;
  if (end > source.size) throw truncated(source.name, end, source.size);
  if (payloadSize > 0 && payloadSize < 8) throw bad('its payload is damaged');
  if (end === codeOffset) throw bad('it has no code');

  // The byte at 0x201 is the offset of a short jump over the header: where the header ends.
  const headerEnd = Math.min(0x202 + head.getUint8(0x201), SETUP_HEADER_LIMIT);
  const header = new Uint8Array(head.buffer, SETUP_HEADER_OFFSET, headerEnd - SETUP_HEADER_OFFSET);
  const hasInitSize = version >= PROTOCOL_INIT_SIZE;
  const prefAddress = hasInitSize ? head.getBigUint64(at('pref_address'), true) : 0n;
  const initSize = hasInitSize ? u32('init_size') : 0;
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
    // As doubles: anything beyond 2^53 is rounded, and not RAM either way.
    prefAddress: Number(prefAddress) || DEFAULT_LOAD_ADDRESS,
    initSize,
    entry64:
      version >= PROTOCOL_XLOADFLAGS && (u16('xloadflags') & XLF_KERNEL_64) !== 0 && initSize > 0,
  };
}
