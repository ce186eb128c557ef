/** What both renderers of a drawing need: the boxes of each space, and text that fits a width. */
import { type Box, type Drawing, SPACES, type Space } from './drawing.ts';

const ELLIPSIS = '…';

/** Lines of at most `width` characters; words that are longer are cut, paths at their beginning. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const part = cut(word, width);
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + part.length <= width) {
      lines[lines.length - 1] = `${last} ${part}`;
    } else lines.push(part);
  }
  return lines;
}

/** At most `width` characters of a text: of a path, the last ones. */
export function cut(text: string, width: number): string {
  if (text.length <= width) return text;
  if (width <= 1) return text.slice(0, width);
  return text.startsWith('/')
    ? `${ELLIPSIS}${text.slice(1 - width)}`
    : `${text.slice(0, width - 1)}${ELLIPSIS}`;
}

/** A box's lines. */
export interface BoxLines {
  readonly title: readonly string[];
  readonly detail: readonly string[];
}

/** The boxes of each space, from top to bottom. @param width characters of a line in a box */
export function boxesOf(
  { boxes }: Drawing,
  width: number,
): ReadonlyMap<Space, readonly BoxLines[]> {
  const linesOf = ({ title, detail }: Box): BoxLines => ({
    title: wrap(title, width),
    detail: detail === undefined || detail === '' ? [] : wrap(detail, width),
  });
  return new Map(
    SPACES.map((space) => [
      space,
      boxes.filter((box) => box.space === space).map((box) => linesOf(box)),
    ]),
  );
}
