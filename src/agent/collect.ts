/** All of a stream in one buffer, up to a limit. */

/** Stands for output beyond the limit. */
export const TOO_MUCH: unique symbol = Symbol('more than the limit');

/** Reads a stream to its end. @returns TOO_MUCH when it has more bytes than `limit` */
export async function collect(
  stream: AsyncIterable<Buffer>,
  limit: number,
): Promise<Buffer | typeof TOO_MUCH> {
  // One buffer that doubles: a stream of single bytes takes no more room than its bytes.
  let bytes = Buffer.alloc(0);
  let length = 0;
  for await (const chunk of stream) {
    const end = length + chunk.length;
    if (end > limit) return TOO_MUCH;
    if (end > bytes.length) {
      const larger = Buffer.allocUnsafe(Math.min(Math.max(end, 2 * bytes.length), limit));
      bytes.copy(larger, 0, 0, length);
      bytes = larger;
    }
    chunk.copy(bytes, length);
    length = end;
  }
  return bytes.subarray(0, length);
}
