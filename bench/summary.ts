/** bench/results: each group's latest measurements as JSON, and what docs/benchmarks.md shows of them. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { markdownTable } from 'markdown-table';
import { UsageError } from '../src/host/errors.ts';
import { packageFolder } from '../src/host/package-folder.ts';
import { GROUPS } from './groups/all.ts';
import { hostLine } from './harness/host.ts';
import { type Measure, ratios } from './harness/measure.ts';
import { readReport } from './harness/report.ts';
import { figureText, spread } from './harness/statistics.ts';

const FOLDER = join(packageFolder, 'bench/results');
const PAGE = join(packageFolder, 'docs/benchmarks.md');
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

/** Summaries by the names of their files. */
export type Summaries = ReadonlyMap<string, Summary>;

/** Everything in bench/results, in the order of the groups. */
export function readSummaries(folder = FOLDER): Summaries {
  const order = GROUPS.map(({ name }) => name);
  const all = readdirSync(folder).map((file) => {
    const summary = JSON.parse(readFileSync(join(folder, file), 'utf8')) as Summary;
    return [basename(file, '.json'), summary] as const;
  });
  const place = ([name, { group }]: (typeof all)[number]): string =>
    `${order.indexOf(group)}`.padStart(2) + name;
  return new Map(all.toSorted((a, b) => (place(a) < place(b) ? -1 : 1)));
}

/** What is kept of a report. */
export function summariesOf(path: string): Summaries {
  const { sites, date, command, rounds, seconds, runs = 1 } = readReport(path);
  const summaries = new Map<string, Summary>();
  for (const { host, results } of sites) {
    for (const group of new Set(results.map((result) => result.group))) {
      const headlines = results.filter(
        (one) => one.group === group && one.measure.aspect === undefined,
      );
      summaries.set(group, {
        ...{ group, date: date.slice(0, 10), command },
        samples: `${runs === 1 ? '' : `${runs} runs of `}${rounds} rounds of ${seconds} s`,
        ...{ host: hostLine(host), emulated: host.emulated },
        measures: headlines.map((result) => ({
          ...result.measure,
          rows: result.rows.map((row) => {
            const { low, median, high } = spread(ratios(result, row));
            const ratio = [median, low, high] as const;
            return {
              ...{ subject: row.subject, ...spread(row.samples) },
              ...(row.peer === undefined ? {} : { peer: row.peer, ratio }),
            };
          }),
        })),
      });
    }
  }
  return summaries;
}

/** Rows of a group and their peers, e.g. `nodevmm : QEMU q35`, with their ratios by measure. */
function pairsOf({ measures }: Summary): Map<string, { name: string; times: number }[]> {
  const pairs = new Map<string, { name: string; times: number }[]>();
  for (const { name, rows } of measures) {
    for (const { subject, peer, ratio } of rows) {
      if (peer === undefined || ratio === undefined) continue;
      const pair = `${subject} : ${peer}`;
      pairs.set(pair, [...(pairs.get(pair) ?? []), { name, times: ratio[0] }]);
    }
  }
  return pairs;
}

/** One line for each pair: its ratio over all measures, and the measures that it is worst and best at. */
export function summaryTable(summaries: Summaries): string {
  const heads = ['benchmark', 'compared', 'ratio', 'worst', 'best', 'measured'];
  const lines = [...summaries].flatMap(([file, summary]) =>
    [...pairsOf(summary)].map(([pair, measures]) => {
      const sorted = measures.toSorted((a, b) => a.times - b.times);
      const extreme = (at: number): string => {
        const { name, times } = sorted.at(at) ?? { name: '', times: Number.NaN };
        return `${figureText(times)} ${name}`;
      };
      const { median } = spread(measures.map(({ times }) => times));
      return [
        ...[`[${file}](../bench/results/${file}.json)`, pair, `**${figureText(median)}**`],
        ...(sorted.length === 1 ? [sorted[0]?.name ?? '', ''] : [extreme(0), extreme(-1)]),
        `${summary.date}, ${summary.emulated ? 'lab' : 'host'}`,
      ];
    }),
  );
  return markdownTable([heads, ...lines], { align: [...'llrlll'], alignDelimiters: false });
}

/** A page with the part between its markers replaced. */
export function withSummary(page: string, summaries: Summaries): string {
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (begin < 0 || end < begin) {
    throw new UsageError(
      'E_SUMMARY',
      `${PAGE} has lost its markers`,
      `put them back: ${BEGIN}${END}`,
    );
  }
  const before = page.slice(0, begin + BEGIN.length);
  return `${before}\n${summaryTable(summaries)}\n\n${page.slice(end)}`;
}

/**
 * Writes reports to bench/results, with `write`, or shows them, or all that is there.
 * @returns the text for standard output
 */
export function summarize(reports: readonly string[], write: boolean): string {
  if (!existsSync(FOLDER)) {
    throw new UsageError('E_SUMMARY', `no ${FOLDER}`, 'summary works in a checkout of nodevmm');
  }
  const added = new Map(reports.flatMap((path) => [...summariesOf(path)]));
  if (!write) return `${summaryTable(added.size > 0 ? added : readSummaries())}\n`;
  for (const [name, one] of added) {
    // One row per line.
    const text = JSON.stringify(one, null, 2).replace(/\{[^{}]*\}/g, (row) =>
      row.replace(/\s+/g, ' '),
    );
    writeFileSync(join(FOLDER, `${name}.json`), `${text}\n`);
  }
  writeFileSync(PAGE, withSummary(readFileSync(PAGE, 'utf8'), readSummaries()));
  return `wrote ${PAGE}\n`;
}
