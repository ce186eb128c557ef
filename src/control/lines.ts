/** Lines of text from a stream, read only as fast as they are taken. */
import type { Readable } from 'node:stream';
import { UsageError } from '../host/errors.ts';

/**
 * The lines of a stream, without what follows the last newline.
 * @param most characters of the longest line
 * @throws UsageError when a line is longer
 */
export async function* linesOf(stream: Readable, most: number): AsyncGenerator<string> {
  let begun: string[] = [];
  let length = 0;
  for await (const chunk of stream.setEncoding('utf8') as AsyncIterable<string>) {
    const pieces = chunk.split('\n');
    for (const [i, piece] of pieces.entries()) {
      begun.push(piece);
      length += piece.length;
      if (length > most) {
        throw new UsageError('E_CONTROL', `a line has at most ${most} characters`);
      }
      if (i === pieces.length - 1) continue;
      yield begun.join('');
      begun = [];
      length = 0;
    }
  }
}
