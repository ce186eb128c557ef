/** Tables of results: for a terminal, and in Markdown to paste into docs/benchmarks.md. */
import { type Host, hostLine } from './host.ts';
import { type Measure, type Result, type Row, ratio, spread } from './measure.ts';

/** Everything that a run found out. */
export interface Report {
  readonly host: Host;
  /** The host that carries the lab, when the measurements were made in it. */
  readonly labHost?: Host;
  readonly rounds: number;
  readonly seconds: number;
  readonly results: readonly Result[];
}

const HEADINGS = ['', 'median', 'lowest', 'highest', 'ratio'] as const;

function number(value: number): string {
  if (!Number.isFinite(value)) return '-';
  const digits = Math.abs(value) < 10 ? 2 : Math.abs(value) < 100 ? 1 : 0;
  return value.toFixed(digits);
}

/** In the order of the headings. */
function cells(result: Result, row: Row): string[] {
  const name = row.reference ? `${row.subject} *` : row.subject;
  if (row.samples.length === 0) return [name, 'failed', '-', '-', '-'];
  const { low, median, high } = spread(row.samples);
  return [name, ...[median, low, high, ratio(result, row)].map(number)];
}

function title({ name, unit, better }: Measure): string {
  return `${name}, ${unit} (${better} is better)`;
}

/** For people at a terminal. @param withUsage also where the time went */
export function terminalReport(report: Report, withUsage: boolean): string {
  const lines: string[] = [...hostLines(report), ''];
  for (const result of report.results) {
    const table = [[...HEADINGS], ...result.rows.map((row) => cells(result, row))];
    const widths = HEADINGS.map((_, column) =>
      Math.max(...table.map((row) => (row[column] ?? '').length)),
    );
    lines.push(`${result.group}: ${title(result.measure)}`);
    for (const row of table) {
      const padded = row.map((cell, column) =>
        column === 0 ? cell.padEnd(widths[0] ?? 0) : cell.padStart(widths[column] ?? 0),
      );
      lines.push(`  ${padded.join('  ')}`.trimEnd());
    }
    lines.push(...notes(result, withUsage), '');
  }
  lines.push(...legend(report));
  return `${lines.join('\n')}\n`;
}

function legend({ rounds, seconds }: Report): string[] {
  return [
    'Ratio: how many times as good as the best row with a *, by medians (exits: by the lowest);',
    `above 1 is better. Samples are interleaved, ${rounds} each after a warm-up (exits: 100 times as`,
    `many); throughput over ${seconds} s a sample.`,
  ];
}

function notes({ rows }: Result, withUsage: boolean): string[] {
  return rows.flatMap((row) => {
    const failure = row.failure === undefined ? [] : [`  ${row.subject} failed: ${row.failure}`];
    if (!withUsage || row.usage === undefined) return failure;
    const { seconds, threads, kvm } = row.usage;
    const busy = Object.entries(threads)
      .toSorted(([, a], [, b]) => b - a)
      .map(([name, cpu]) => `${name} ${((cpu / seconds) * 100).toFixed(0)} %`);
    const rates = Object.entries(kvm).map(([name, rate]) => `${name} ${rate.toFixed(0)}`);
    return [
      ...failure,
      `  ${row.subject}: CPU of threads: ${busy.join(', ') || 'none'}`,
      ...(rates.length === 0 ? [] : [`  ${row.subject}: KVM, per second: ${rates.join(', ')}`]),
    ];
  });
}

function hostLines({ host, labHost }: Report): string[] {
  if (labHost === undefined) return [`Host: ${hostLine(host)}`];
  return [`Measured in the lab: ${hostLine(host)}`, `which runs on: ${hostLine(labHost)}`];
}

/** For docs/benchmarks.md. */
export function markdownReport(report: Report): string {
  const lines: string[] = hostLines(report).flatMap((line) => [line, '']);
  lines.push(...legend(report), '');
  for (const result of report.results) {
    lines.push(`| ${title(result.measure)} | median | lowest | highest | ratio |`);
    lines.push('|---|---:|---:|---:|---:|');
    for (const row of result.rows) {
      lines.push(`| ${cells(result, row).join(' | ')} |`);
    }
    lines.push('');
  }
  return lines.join('\n');
}
