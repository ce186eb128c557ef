/** A report for people at a terminal: a table with bars for each measure. */
import { figure, type Headline, headlines, type Result, type Row } from './measure.ts';
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
import { aligned, bar } from './text-bars.ts';

const LONGEST_BAR = 24;
const SHORTEST_BAR = 6;
const INDENT = '  ';

/** How a report is shown. */
export interface TerminalOptions {
  /** Also where the time went, and all other values from the measure's runs. */
  readonly profile: boolean;
  /** Characters per line. */
  readonly width: number;
}

/** The whole report. */
export function terminalReport(report: Report, options: TerminalOptions): string {
  const lines: string[] = [];
  for (const site of report.sites) {
    lines.push(...siteLines(site), ...omissionLines(site), '');
    for (const headline of headlines(site.results)) lines.push(...table(headline, options), '');
  }
  return `${[...lines, ...legend(report)].join('\n')}\n`;
}

function table({ result, aspects }: Headline, { profile, width }: TerminalOptions): string[] {
  const { measure, rows } = result;
  const shown = aspects.filter(({ measure: { aspect } }) => aspect?.detail !== true);
  const details = aspects.filter(({ measure: { aspect } }) => profile && aspect?.detail === true);
  const heads = [
    'median',
    'low',
    'high',
    ...ratioHeads(result),
    ...shown.map((aspect) => columnTitle(aspect.measure)),
  ];
  const body = rows.map((row) => [
    ...cells(result, row),
    ...shown.map((aspect) => aspectCell(aspect, row)),
  ]);
  const names = rows.map(({ subject, reference }) => (reference ? `${subject} *` : subject));
  const figures = aligned([heads, ...body], 0);
  const nameWidth = Math.max(...names.map((name) => name.length));
  const rest = width - INDENT.length - nameWidth - 4 - Math.max(...figures.map((l) => l.length));
  const barWidth = Math.min(LONGEST_BAR, rest);
  const values = rows.map((row) => figure(measure, row.samples));
  const longest = Math.max(0, ...values.filter(Number.isFinite));
  const line = (name: string, value: number, text: string): string => {
    const drawn = barWidth < SHORTEST_BAR ? '' : `${bar(value, longest, barWidth)}  `;
    return `${INDENT}${name.padEnd(nameWidth)}  ${drawn}${text}`.trimEnd();
  };
  const lines = [`${result.group}: ${title(measure)}`, line('', 0, figures[0] ?? '')];
  for (const [index, name] of names.entries()) {
    lines.push(line(name, values[index] ?? 0, figures[index + 1] ?? ''));
  }
  return [...lines, ...detailTable(rows, details), ...rows.flatMap((row) => notes(row, profile))];
}

/** Explanatory values, below the table. */
function detailTable(rows: readonly Row[], details: readonly Result[]): string[] {
  if (details.length === 0) return [];
  const heads = ['', ...details.map((aspect) => columnTitle(aspect.measure))];
  const body = rows.map((row) => [
    row.subject,
    ...details.map((aspect) => aspectCell(aspect, row)),
  ]);
  return aligned([heads, ...body], 1).map((line) => `${INDENT}${line}`);
}

function cells(result: Result, row: Row): string[] {
  if (row.samples.length === 0) return ['failed', '-', '-', ...ratioHeads(result).map(() => '-')];
  const { low, median, high } = spread(row.samples);
  return [...[median, low, high].map(figureText), ...ratioCells(result, row)];
}

function aspectCell({ rows }: Result, { subject }: Row): string {
  const own = rows.find((row) => row.subject === subject);
  return figureText(spread(own?.samples ?? []).median);
}

function notes(row: Row, profile: boolean): string[] {
  const { subject, usage } = row;
  const lines = rowLines(row).map((line) => INDENT + line);
  if (!profile || usage === undefined) return lines;
  const busy = Object.entries(usage.threads)
    .toSorted(([, a], [, b]) => b - a)
    .map(([name, cpu]) => `${name} ${((cpu / usage.seconds) * 100).toFixed(0)} %`);
  const rates = Object.entries(usage.kvm).map(([name, rate]) => `${name} ${rate.toFixed(0)}`);
  lines.push(`${INDENT}${subject}: CPU of threads: ${busy.join(', ') || 'none'}`);
  if (rates.length > 0) lines.push(`${INDENT}${subject}: KVM, per second: ${rates.join(', ')}`);
  return lines;
}
