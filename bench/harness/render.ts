/** The forms of a document: text for a terminal, and one self-contained HTML page. */
import { aligned, wrap } from '../../src/cli/terminal/text-table.ts';
import { element, escapeText, htmlDocument } from '../../src/inspect/markup.ts';
import type { Bar, Document, Table } from './document.ts';
import type { Overview, OverviewCell } from './overview.ts';

const LONGEST_BAR = 24;
const SHORTEST_BAR = 6;
/** Left parts of a character cell, one to seven eighths wide. */
const EIGHTHS = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'] as const;
const FULL = '█';

/** The longest bar's value; 1 when there is none, for it divides. */
const longest = (values: readonly number[]): number =>
  Math.max(...values.filter((value) => value > 0), 0) || 1;

/** Text with bars. @param width characters per line */
export function renderText({ intro, tables, legend }: Document, width: number): string {
  const blocks = tables.map((table) => textTable(table, width).join('\n'));
  const how = legend.flatMap((line) => wrap(line, width));
  return `${[intro.join('\n'), ...blocks, how.join('\n')].join('\n\n')}\n`;
}

function textTable({ title, heads, rows, bars = [], notes = [] }: Table, width: number): string[] {
  const plain = aligned([heads, ...rows]);
  const room = width - 4 - Math.max(...plain.map((line) => line.length));
  const size = Math.min(LONGEST_BAR, room);
  const top = longest(bars.map(({ value }) => value));
  const drawn = rows.map(([name = '', ...figures], i) => {
    return [name, textBar((bars[i]?.value ?? 0) / top, size), ...figures];
  });
  const withBars = (): string[] => aligned([heads.toSpliced(1, 0, ''), ...drawn]);
  const lines = bars.length > 0 && size >= SHORTEST_BAR ? withBars() : plain;
  return [title, ...[...lines, ...notes].map((line) => `  ${line}`.trimEnd())];
}

/** A bar of a share of a width, in eighths of a character; padded to the width. */
export function textBar(share: number, width: number): string {
  // Nonzero values are visible.
  const eighths = share > 0 ? Math.max(1, Math.round(Math.min(1, share) * width * 8)) : 0;
  return (FULL.repeat(eighths >> 3) + (EIGHTHS[eighths & 7] ?? '')).padEnd(width);
}

/** A page that needs nothing else. */
export function renderPage({ title, intro, overviews = [], tables, legend }: Document): string {
  const paragraph = (line: string): string => element('p', {}, escapeText(line));
  const body = [
    element('h1', {}, escapeText(title)),
    ...intro.map(paragraph),
    ...overviews.map(picture),
    ...tables.map(pageTable),
    ...['Bars are medians, lines the lowest to the highest sample.', ...legend].map(paragraph),
  ];
  return htmlDocument(title, STYLE, body);
}

function pageTable({ title, heads, rows, bars = [], notes = [] }: Table): string {
  const cells = (tag: string, [name = '', ...figures]: readonly string[], bar: string): string => {
    const all = [escapeText(name), ...(bars.length === 0 ? [] : [bar]), ...figures.map(escapeText)];
    return element('tr', {}, all.map((cell) => element(tag, {}, cell)).join(''));
  };
  const top = longest(bars.flatMap(({ value, high }) => [value, high]));
  const lines = rows.map((row, i) => cells('td', row, chartBar(bars[i], top)));
  const table = element('table', {}, cells('th', heads, '') + lines.join('\n'));
  const said = notes.map((note) => element('p', {}, escapeText(note)));
  return element('section', {}, [element('h2', {}, escapeText(title)), table, ...said].join('\n'));
}

/** A bar for each row and measure: the longer, the better. */
function picture({ title, heads, rows }: Overview): string {
  const cell = (one: OverviewCell | undefined): string => {
    if (one === undefined) return element('td', {}, '');
    const [value = '', ...more] = one.lines.map(escapeText);
    const bar = element('rect', { width: `${(100 * one.share).toFixed(1)}%`, height: '100%' });
    const details = more.map((line) => element('small', {}, line)).join('');
    return element('td', {}, element('svg', { 'aria-hidden': 'true' }, bar) + value + details);
  };
  const line = ([name, cells]: Overview['rows'][number]): string =>
    element('tr', {}, element('td', {}, escapeText(name)) + cells.map(cell).join(''));
  const top = ['', ...heads].map((head) => element('th', {}, escapeText(head))).join('');
  const table = element('table', {}, element('tr', {}, top) + rows.map(line).join('\n'));
  const note = element('p', {}, 'The longer a bar, the better; medians.');
  const content = [element('h2', {}, escapeText(title)), table, note].join('\n');
  return element('section', { class: 'picture' }, content);
}

/** The value as a bar, and a line over it from the lowest to the highest sample. */
function chartBar(bar: Bar | undefined, top: number): string {
  if (bar === undefined || !Number.isFinite(bar.value)) return '';
  const at = (value: number): string => `${((100 * value) / top).toFixed(1)}%`;
  const shapes = [
    element('rect', { width: at(bar.value), height: '100%' }),
    element('line', { x1: at(bar.low), x2: at(bar.high), y1: '50%', y2: '50%' }),
  ];
  return element('svg', { 'aria-hidden': 'true' }, shapes.join(''));
}

const STYLE = `
:root { color-scheme: light dark; --ink: light-dark(#1c2229, #e5eaf0); --bar: light-dark(#8db1ee, #35599c); }
body { max-width: 70em; margin: 0 auto; padding: 1em; color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
section { overflow-x: auto; }
h2 { font-size: 1.1em; margin: 1.5em 0 0.3em; }
td, th { padding: 0.1em 0.7em; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td:first-child { text-align: left; }
.picture th { white-space: normal; vertical-align: bottom; }
.picture td { vertical-align: top; }
small { display: block; opacity: 0.7; }
svg { width: 20em; height: 1em; vertical-align: middle; }
.picture svg { display: block; width: 9em; }
rect { fill: var(--bar); }
line { stroke: var(--ink); stroke-width: 2; }
`;
