/** A report as Markdown tables, to paste into docs/benchmarks.md. */
import { markdownTable } from 'markdown-table';
import { type Headline, headlines } from './measure.ts';
import {
  columnTitle,
  figureText,
  legend,
  omissionLines,
  ratioCells,
  ratioHeads,
  rowLines,
  siteLines,
  title,
} from './notes.ts';
import type { Report } from './report.ts';
import { spread } from './statistics.ts';

/** The whole report. */
export function markdownReport(report: Report): string {
  const lines: string[] = [];
  for (const site of report.sites) {
    for (const line of [...siteLines(site), ...omissionLines(site)]) lines.push(line, '');
  }
  lines.push(legend(report).join(' '), '');
  for (const { results } of report.sites) {
    for (const headline of headlines(results)) lines.push(...table(headline), '');
  }
  return lines.join('\n');
}

function table({ result, aspects }: Headline): string[] {
  const shown = aspects.filter(({ measure }) => measure.aspect?.detail !== true);
  const heads = [
    ...[title(result.measure), 'median', 'lowest', 'highest', ...ratioHeads(result)],
    ...shown.map(({ measure }) => columnTitle(measure)),
  ];
  const body: string[][] = [];
  for (const row of result.rows) {
    const name = row.reference ? `${row.subject} *` : row.subject;
    const { low, median, high } = spread(row.samples);
    const figures = [...[median, low, high].map(figureText), ...ratioCells(result, row)];
    if (row.samples.length === 0) figures[0] = 'failed';
    const others = shown.map(({ rows }) => {
      const own = rows.find(({ subject }) => subject === row.subject);
      return figureText(spread(own?.samples ?? []).median);
    });
    body.push([name, ...figures, ...others]);
  }
  const align = heads.map((_, i) => (i === 0 ? 'l' : 'r'));
  const options = { align, alignDelimiters: false };
  const lines = [markdownTable([heads, ...body], options)];
  const notes = result.rows.flatMap(rowLines).map(textOf);
  return notes.length === 0 ? lines : [...lines, '', ...notes];
}

/** A line with markup escaped. */
const textOf = (line: string): string => line.replace(/\s+/g, ' ').replace(/[\\`*_<|]/g, '\\$&');
