/**
 * LZ4 as Linux kernels are packed with it: the legacy frame (LZ4 Frame Format, "Legacy frame"),
 * blocks in the LZ4 Block Format. In TypeScript because no version of Node has it and the decoder
 * is short.
 */
import { Buffer } from 'node:buffer';

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
