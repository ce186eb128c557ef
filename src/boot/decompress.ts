/** Unpacks the vmlinux in a bzImage, in every format that Linux can be configured for. */

import { Buffer } from 'node:buffer';
import { spawn } from 'node:child_process';
import * as zlib from 'node:zlib';
import { UsageError } from '../host/errors.ts';

/** No kernel comes near; a hostile length must not take the host's memory. */
const LARGEST_KERNEL = 512 * 2 ** 20;

interface Format {
  /** As CONFIG_KERNEL_* has it. */
  readonly name: string;
  readonly magic: readonly number[];
  /** Unpacks in this process. Undefined when the data is damaged. */
  readonly decode?: (input: Uint8Array, size: number) => Uint8Array | undefined;
  /** A program that unpacks standard input to standard output, and the Debian package it is in. */
  readonly tool?: readonly [debianPackage: string, command: string, ...args: string[]];
}

/** Node has it from 22.15 on. */
const zstdDecompressSync = (zlib as { zstdDecompressSync?: typeof zlib.gunzipSync })
  .zstdDecompressSync;

/** Magic numbers of the formats in the kernel's lib/decompress.c. */
const FORMATS: readonly Format[] = [
  { name: 'gzip', magic: [0x1f, 0x8b], decode: throughZlib(zlib.gunzipSync) },
  { name: 'bzip2', magic: [0x42, 0x5a, 0x68], tool: ['bzip2', 'bzip2', '-dc'] },
  { name: 'lzma', magic: [0x5d, 0, 0], tool: ['xz-utils', 'xz', '--format=lzma', '-dc'] },
  {
    name: 'xz',
    magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0],
    tool: ['xz-utils', 'xz', '--format=xz', '-dc'],
  },
  { name: 'lzo', magic: [0x89, 0x4c, 0x5a, 0x4f, 0, 0x0d, 0x0a], tool: ['lzop', 'lzop', '-dc'] },
  { name: 'lz4', magic: [0x02, 0x21, 0x4c, 0x18], decode: decodeLz4Legacy },
  {
    name: 'zstd',
    magic: [0x28, 0xb5, 0x2f, 0xfd],
    ...(zstdDecompressSync === undefined
      ? { tool: ['zstd', 'zstd', '-dcq', '--long=31'] as const }
      : { decode: throughZlib(zstdDecompressSync) }),
  },
];

/**
 * Unpacks a kernel.
 * @param payload the compressed kernel, with the little-endian length of the unpacked one in its
 *   last 4 bytes: part of the format for gzip, appended by the kernel's build for all others
 * @param name what error messages call the image
 * @throws UsageError E_UNKNOWN_COMPRESSION, E_DAMAGED, or E_MISSING_TOOL
 */
export async function decompressKernel(payload: Uint8Array, name: string): Promise<Uint8Array> {
  const format = FORMATS.find(({ magic }) => magic.every((byte, at) => payload[at] === byte));
  if (format === undefined || payload.length < 12) {
    throw new UsageError(
      'E_UNKNOWN_COMPRESSION',
      `${name} is compressed in an unknown format`,
      'unpack it and use the vmlinux',
    );
  }
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const size = view.getUint32(payload.length - 4, true);
  if (size === 0 || size > LARGEST_KERNEL)
    throw damaged(name, `it claims to unpack to ${size} bytes`);
  const input = format.name === 'gzip' ? payload : payload.subarray(0, payload.length - 4);
  const output =
    format.decode === undefined
      ? await throughTool(format, input, size, name)
      : format.decode(input, size);
  if (output?.length !== size) throw damaged(name, `its ${format.name} data does not unpack`);
  return output;
}

function damaged(name: string, why: string): UsageError {
  return new UsageError('E_DAMAGED', `${name} is damaged: ${why}`, 'copy or install it again');
}

function throughZlib(decode: typeof zlib.gunzipSync) {
  return (input: Uint8Array, size: number): Uint8Array | undefined => {
    try {
      return decode(input, { maxOutputLength: size });
    } catch {
      return undefined;
    }
  };
}

/** Unpacks with a program. Returns undefined when it fails or writes more than `size` bytes. */
function throughTool(
  format: Format,
  input: Uint8Array,
  size: number,
  name: string,
): Promise<Uint8Array | undefined> {
  const [debianPackage, command, ...args] = format.tool ?? ['', ''];
  return new Promise((resolve, reject) => {
    const output = new Uint8Array(size);
    let length = 0;
    const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'ignore'] });
    child.on('error', (cause) => {
      reject(
        new UsageError(
          'E_MISSING_TOOL',
          `${name} is compressed with ${format.name}, and ${command} cannot be run`,
          `install the package ${debianPackage}`,
          { cause },
        ),
      );
    });
    child.stdout.on('data', (chunk: Uint8Array) => {
      if (length + chunk.length > size) {
        length = -1;
        child.kill('SIGKILL');
      } else if (length >= 0) {
        output.set(chunk, length);
        length += chunk.length;
      }
    });
    child.on('close', (status) => resolve(status === 0 && length === size ? output : undefined));
    // A program that gives up early closes its input; its exit status has the reason.
    child.stdin.on('error', () => {});
    child.stdin.end(input);
  });
}

// LZ4 as Linux kernels are packed with it: the legacy frame (LZ4 Frame Format, "Legacy frame"), blocks
// in the LZ4 Block Format. In TypeScript because Node has no LZ4 and the decoder is short.

/** First bytes of a legacy frame, as a little-endian word. */
export const LZ4_LEGACY_MAGIC = 0x184c2102;
/** Uncompressed size of every block of a legacy frame but the last. */
const BLOCK_SIZE = 8 * 2 ** 20;
/** A shorter copy is faster byte by byte than as a call. */
const SHORT_COPY = 32;

/**
 * Decodes a legacy frame.
 * @param input the frame with its magic number
 * @param size bytes that it must unpack to
 * @returns the data, or undefined when the frame is damaged or unpacks to another size
 */
export function decodeLz4Legacy(input: Uint8Array, size: number): Uint8Array | undefined {
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  const output = Buffer.allocUnsafe(size);
  let from = 4;
  let to = 0;
  while (to < size) {
    if (from + 4 > input.length) return undefined;
    const length = view.getUint32(from, true);
    from += 4;
    if (length === LZ4_LEGACY_MAGIC) continue; // Concatenated frames are one stream.
    if (length > input.length - from) return undefined;
    const limit = Math.min(to + BLOCK_SIZE, size);
    to = decodeBlock(input, from, from + length, output, to, limit);
    if (to < 0) return undefined;
    from += length;
  }
  return output;
}

/**
 * Decodes one block.
 * @param limit where the output must end at the latest
 * @returns where the output ended, or -1 when the block is damaged
 */
function decodeBlock(
  input: Uint8Array,
  start: number,
  end: number,
  output: Uint8Array,
  outputStart: number,
  limit: number,
): number {
  let from = start;
  let to = outputStart;
  while (from < end) {
    const token = input[from++] as number;

    let literals = token >> 4;
    if (literals === 15) {
      let more: number;
      do {
        if (from >= end) return -1;
        more = input[from++] as number;
        literals += more;
      } while (more === 255);
    }
    if (literals > end - from || literals > limit - to) return -1;
    if (literals > SHORT_COPY) {
      output.set(input.subarray(from, from + literals), to);
      to += literals;
      from += literals;
    } else {
      for (const stop = from + literals; from < stop; ) output[to++] = input[from++] as number;
    }
    // The last sequence has literals only.
    if (from === end) return to;

    if (end - from < 2) return -1;
    const offset = (input[from] as number) | ((input[from + 1] as number) << 8);
    from += 2;
    let match = (token & 15) + 4;
    if (match === 19) {
      let more: number;
      do {
        if (from >= end) return -1;
        more = input[from++] as number;
        match += more;
      } while (more === 255);
    }
    let source = to - offset;
    if (offset === 0 || source < outputStart || match > limit - to) return -1;
    if (offset >= match && match > SHORT_COPY) {
      output.copyWithin(to, source, source + match);
      to += match;
    } else {
      // An overlapping match repeats its own output, so it goes byte by byte.
      for (const stop = to + match; to < stop; ) output[to++] = output[source++] as number;
    }
  }
  return -1;
}
