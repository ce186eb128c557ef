/** bench/results: one file for each group's latest measurements, and the tables that docs/benchmarks.md shows of them. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { markdownTable } from 'markdown-table';
import { UsageError } from '../src/host/errors.ts';
import { GROUPS } from './groups/all.ts';
import { hostLine } from './harness/host.ts';
import { type Measure, ratios } from './harness/measure.ts';
import { figureText } from './harness/notes.ts';
import { readReport } from './harness/report.ts';
import { spread } from './harness/statistics.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const FOLDER = join(ROOT, 'bench/results');
const PAGE = join(ROOT, 'docs/benchmarks.md');
const BEGIN = '<!-- generated from bench/results by npm run bench -- summary --write -->\n';
const END = '<!-- end of the generated part -->\n';

/** What is kept of a row: its spread, and how many times as good as its peer it is. */
interface SummaryRow {
  readonly subject: string;
  readonly peer?: string;
  readonly median?: number;
  readonly low?: number;
  readonly high?: number;
  /** Of several runs also the lowest and the highest. */
  readonly ratio?: readonly [median: number, low?: number, high?: number];
}

/** A group's measurements, as committed. */
export interface Summary {
  readonly group: string;
  readonly date: string;
  readonly command: string;
  readonly samples: string;
  readonly host: string;
  /** True where the processor itself is emulated: only ratios are meaningful there. */
  readonly emulated: boolean;
  readonly measures: readonly (Pick<Measure, 'name' | 'unit' | 'better'> & {
    readonly rows: readonly SummaryRow[];
  })[];
}

/** Everything in bench/results, in the order of the groups. */
export function readSummaries(folder = FOLDER): Summary[] {
  const names = readdirSync(folder).toSorted();
  const all = names.map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')) as Summary);
  const order = GROUPS.map(({ name }) => name);
  return all.toSorted((a, b) => order.indexOf(a.group) - order.indexOf(b.group));
}

/** What is kept of a report, by group. */
export function summariesOf(path: string): Summary[] {
  const { sites, date, command, rounds, seconds, runs = 1 } = readReport(path);
  return sites.flatMap(({ host, results }) =>
    [...new Set(results.map(({ group }) => group))].map((group) => ({
      ...{ group, date: date.slice(0, 10), command },
      samples: `${runs === 1 ? '' : `${runs} runs of `}${rounds} rounds of ${seconds} s`,
      ...{ host: hostLine(host), emulated: host.emulated },
      measures: results
        .filter((one) => one.group === group && one.measure.aspect === undefined)
        .map((result) => ({
          ...result.measure,
          rows: result.rows.map((row) => {
            const { low, median, high } = spread(ratios(result, row));
            return {
              ...{ subject: row.subject, ...spread(row.samples) },
              ...(row.peer === undefined ? {} : { peer: row.peer }),
              ...(row.peer === undefined ? {} : { ratio: [median, low, high] as const }),
            };
          }),
        })),
    })),
  );
}

/** Marked pairs of figures of a row and its peer, where both are known, and their ratio. */
function cell({ ratio, median, peer }: SummaryRow, rows: readonly SummaryRow[]): string {
  const [times = Number.NaN, low, high] = ratio ?? [];
  const range =
    low === undefined || low === high ? '' : ` (${figureText(low)} to ${figureText(high ?? low)})`;
  const other = rows.find(({ subject }) => subject === peer)?.median;
  const figures = [median, other].map((value) => figureText(value ?? Number.NaN)).join(' : ');
  return `${median === undefined || other === undefined ? '' : `${figures}, `}**${figureText(times)}**${range}`;
}

function table({ group, date, command, samples, host, measures }: Summary): string {
  const rows = measures.flatMap((measure) => measure.rows);
  const pairs = [...new Set(rows.filter(({ peer }) => peer).map(({ subject }) => subject))];
  const heads = pairs.map((name) => {
    const { subject, peer } = rows.find(({ subject }) => subject === name) ?? rows[0] ?? {};
    return `${subject} : ${peer}`;
  });
  const body = measures.map(({ name, unit, better, rows }) => [
    `${name}, ${unit}${better === 'lower' ? ' (lower is better)' : ''}`,
    ...pairs.map((pair) => {
      const row = rows.find(({ subject }) => subject === pair);
      return row === undefined ? '-' : cell(row, rows);
    }),
  ]);
  const align = ['l', ...pairs.map(() => 'r')];
  return `**${group}**\n\n${markdownTable([['', ...heads], ...body], { align, alignDelimiters: false })}

${date}, \`${command}\`; ${samples}; ${host}.\n`;
}

/** All of them, as Markdown. */
export const summaryText = (summaries: readonly Summary[]): string =>
  summaries.map(table).join('\n');

/** A page with the part between its markers replaced. */
export function withSummary(page: string, summaries: readonly Summary[]): string {
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (begin < 0 || end < begin) {
    throw new UsageError(
      'E_SUMMARY',
      `${PAGE} has lost its markers; put them back: ${BEGIN}${END}`,
    );
  }
  return `${page.slice(0, begin + BEGIN.length)}\n${summaryText(summaries)}\n${page.slice(end)}`;
}

/**
 * Writes reports to bench/results, with `write`, and shows all that is there.
 * @returns the text for standard output
 */
export function summarize(reports: readonly string[], write: boolean): string {
  if (!existsSync(FOLDER)) {
    throw new UsageError('E_SUMMARY', `no ${FOLDER}; summary works in a checkout of nodevmm`);
  }
  const added = reports.flatMap(summariesOf);
  if (!write) return summaryText(added.length > 0 ? added : readSummaries());
  for (const one of added) {
    // One row per line.
    const text = JSON.stringify(one, null, 2).replace(/\{[^{}]*\}/g, (row) =>
      row.replace(/\s+/g, ' '),
    );
    writeFileSync(join(FOLDER, `${one.group}.json`), `${text}\n`);
  }
  writeFileSync(PAGE, withSummary(readFileSync(PAGE, 'utf8'), readSummaries()));
  return `wrote ${PAGE}\n`;
}
