/** Text laid out in columns, wrapped at words so that it fits the terminal. */

/** Lines of at most `width` characters, broken at spaces; longer words are cut. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(/\s+/)) {
    let rest = word;
    if (line !== '' && line.length + 1 + rest.length <= width) {
      line += ` ${rest}`;
      continue;
    }
    if (line !== '') lines.push(line);
    while (rest.length > width) {
      lines.push(rest.slice(0, width));
      rest = rest.slice(width);
    }
    line = rest;
  }
  return [...lines, line];
}

const GAP = '  ';

/**
 * Cells side by side, each wrapped in its own column.
 * @param widths characters of each column; the last one's lines are not padded
 */
export function columns(cells: readonly string[], widths: readonly number[]): string[] {
  const wrapped = cells.map((cell, i) => wrap(cell, widths[i] ?? 1));
  const height = Math.max(...wrapped.map((lines) => lines.length));
  return Array.from({ length: height }, (_, y) =>
    wrapped
      .map((lines, i) => (lines[y] ?? '').padEnd(widths[i] ?? 1))
      .join(GAP)
      .trimEnd(),
  );
}

/** The room that is left on a line for the last columns. */
export function remaining(width: number, taken: readonly number[]): number {
  return width - taken.reduce((sum, column) => sum + column + GAP.length, 0);
}

/** Rows of cells in columns as wide as needed: names left-aligned, numbers right-aligned. */
export function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, i) =>
    Math.max(...rows.map((row) => (row[i] ?? '').length)),
  );
  return rows.map((row) =>
    row
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join(GAP),
  );
}
