/** Bars and tables of characters. */

/** Left parts of a character cell, one to seven eighths wide. */
const EIGHTHS = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'] as const;
const FULL = '█';

/** A bar of value/longest of a width, in eighths of a character; padded to the width. */
export function bar(value: number, longest: number, width: number): string {
  const part = longest > 0 && value > 0 ? Math.min(1, value / longest) : 0;
  // Nonzero values are visible.
  const eighths = value > 0 && part > 0 ? Math.max(1, Math.round(part * width * 8)) : 0;
  const text = FULL.repeat(eighths >> 3) + (EIGHTHS[eighths & 7] ?? '');
  return text.padEnd(width);
}

/** Columns side by side, two blanks apart. @param left how many of the first align to the left */
export function aligned(rows: readonly (readonly string[])[], left: number): string[] {
  const columns = Math.max(0, ...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? '').length)),
  );
  return rows.map((row) =>
    widths
      .map((width, column) => {
        const cell = row[column] ?? '';
        return column < left ? cell.padEnd(width) : cell.padStart(width);
      })
      .join('  ')
      .trimEnd(),
  );
}
