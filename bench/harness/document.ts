/** A report as paragraphs and tables, which harness/render.ts writes as text or as a page. */
import { EMULATED_NOTE, hostLine } from './host.ts';
import {
  figure,
  type Headline,
  headlines,
  type Measure,
  type Result,
  type Row,
  ratios,
} from './measure.ts';
import { type Overview, overviewsOf } from './overview.ts';
import { isEmulated, type Report, type Site } from './report.ts';
import { figureText, spread } from './statistics.ts';

/** A value and its spread, to be drawn as a bar. */
export interface Bar {
  readonly low: number;
  /** NaN without samples. */
  readonly value: number;
  readonly high: number;
}

/** A table: the first column has names, the others figures. */
export interface Table {
  readonly title: string;
  readonly heads: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Of each row. */
  readonly bars?: readonly Bar[];
  /** What happened to the rows. */
  readonly notes?: readonly string[];
}

/** What a renderer writes. */
export interface Document {
  readonly title: string;
  readonly intro: readonly string[];
  /** Pictures, of a page only. */
  readonly overviews?: readonly Overview[];
  readonly tables: readonly Table[];
  /** How to read the tables. */
  readonly legend: readonly string[];
}

/** A report. */
export function documentOf(report: Report): Document {
  const { version, date, sites } = report;
  const warning = isEmulated(report) ? [EMULATED_NOTE] : [];
  return {
    title: `nodevmm ${version}: benchmarks of ${date.slice(0, 16).replace('T', ' ')}`,
    intro: [...warning, ...sites.flatMap(siteLines)],
    overviews: sites.flatMap(({ results }) => overviewsOf(headlines(results))),
    tables: sites.flatMap(({ results }) => headlines(results).map(tableOf)),
    legend: legend(report),
  };
}

/** Where it was measured, and what is missing. */
function siteLines({ host, labHost, omissions }: Site): string[] {
  const where =
    labHost === undefined
      ? [`Host: ${hostLine(host)}`]
      : [`Measured in the lab: ${hostLine(host)}`, `which runs on: ${hostLine(labHost)}`];
  const missing = omissions.map(({ group, what, why, lost }) =>
    lost === true ? `${group}: LOST: ${what}: ${why}` : `${group}: without ${what}: ${why}`,
  );
  return [...where, ...missing];
}

function legend({ rounds, seconds, runs }: Report): string[] {
  const pooled = `Pooled from ${runs} runs, each with guests of its own: the ratio is the median of the runs' ratios, from the lowest to the highest of them.`;
  return [
    ...(runs === undefined ? [] : [pooled]),
    'Ratio: how many times as good as the row with a * that does its work in the same place, else as the best of those rows, by medians (exits: by the lowest); above 1 is better.',
    `Samples are interleaved, ${rounds} each after a warm-up (exits: 100 times as many); throughput over ${seconds} s a sample.`,
  ];
}

function tableOf({ result, aspects }: Headline): Table {
  const { group, measure, rows } = result;
  // Of several runs, also the lowest and the highest ratio.
  const pooled = rows.some(({ runs }) => runs !== undefined);
  const heads = ['median', 'low', 'high', 'ratio', ...(pooled ? ['from', 'to'] : [])];
  return {
    title: `${group}: ${title(measure)}`,
    heads: ['', ...heads, ...aspects.map(columnTitle)],
    rows: rows.map((row) => [
      row.reference ? `${row.subject} *` : row.subject,
      ...figures(result, row).slice(0, heads.length),
      ...aspects.map((aspect) => medianText(aspect, row)),
    ]),
    bars: rows.map(({ samples }) => ({ ...spread(samples), value: figure(measure, samples) })),
    notes: rows.flatMap(({ subject, failure, remark }) => [
      ...(failure === undefined ? [] : [`${subject} failed: ${failure}`]),
      ...(remark === undefined ? [] : [`${subject}: ${remark}`]),
    ]),
  };
}

function figures(result: Result, row: Row): string[] {
  const own = spread(row.samples);
  const times = spread(ratios(result, row));
  const all = [own.median, own.low, own.high, times.median, times.low, times.high].map(figureText);
  return row.samples.length === 0 ? ['failed', ...all.slice(1)] : all;
}

const medianText = ({ rows }: Result, { subject }: Row): string =>
  figureText(spread(rows.find((row) => row.subject === subject)?.samples ?? []).median);

/** E.g. `TCP guest to host, Mbit/s (higher is better)`. */
export const title = ({ name, unit, better }: Measure): string =>
  `${name}, ${unit} (${better} is better)`;

/** The heading of a column: `host CPU s/GB`, `exits/packet`. */
function columnTitle({ measure: { name, unit, aspect } }: Result): string {
  const label = aspect?.label ?? name;
  return unit.startsWith('/') ? `${label}${unit}` : `${label} ${unit}`;
}
