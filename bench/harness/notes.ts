/** The text of a report: where and how it was measured, what is missing, what ratios are. */
import { EMULATED_NOTE, hostLine } from './host.ts';
import { type Measure, type Result, type Row, ratios } from './measure.ts';
import type { Report, Site } from './report.ts';
import { spread } from './statistics.ts';

/** The hosts, one line each; the warning first. */
export function siteLines({ host, labHost }: Site): string[] {
  const warning = host.emulated ? [EMULATED_NOTE] : [];
  if (labHost === undefined) return [...warning, `Host: ${hostLine(host)}`];
  return [
    ...warning,
    `Measured in the lab: ${hostLine(host)}`,
    `which runs on: ${hostLine(labHost)}`,
  ];
}

/** What is missing, one line each. */
export function omissionLines({ omissions }: Site): string[] {
  return omissions.map(({ group, what, why, lost }) =>
    lost === true ? `${group}: LOST: ${what}: ${why}` : `${group}: without ${what}: ${why}`,
  );
}

/** What kept a row from its samples, or happened while they were taken, one line each. */
export function rowLines({ subject, failure, remark }: Row): string[] {
  return [
    ...(failure === undefined ? [] : [`${subject} failed: ${failure}`]),
    ...(remark === undefined ? [] : [`${subject}: ${remark}`]),
  ];
}

/** Heads of the columns with a row's ratio; of several runs also the lowest and the highest. */
export const ratioHeads = ({ rows }: Result): string[] =>
  rows.some(({ runs }) => runs !== undefined) ? ['ratio', 'from', 'to'] : ['ratio'];

/** The cells below `ratioHeads`. */
export function ratioCells(result: Result, row: Row): string[] {
  const { low, median, high } = spread(ratios(result, row));
  return [median, low, high].slice(0, ratioHeads(result).length).map(figureText);
}

/** How to read the tables. */
export function legend({ rounds, seconds, runs }: Report): string[] {
  const pooled = [
    `Pooled from ${runs} runs, each with guests of its own: the ratio is the median of the runs' ratios,`,
    'from the lowest to the highest of them.',
  ];
  return [
    ...(runs === undefined ? [] : pooled),
    'Ratio: how many times as good as the row with a * that does its work in the same place, else as',
    'the best of those rows, by medians (exits: by the lowest); above 1 is better. Samples are',
    `interleaved, ${rounds} each after a warm-up (exits: 100 times as many); throughput over ${seconds} s a sample.`,
  ];
}

/** E.g. `TCP guest to host, Mbit/s (higher is better)`. */
export function title({ name, unit, better }: Measure): string {
  return `${name}, ${unit} (${better} is better)`;
}

/** The heading of a column: `host CPU s/GB`, `exits/packet`. */
export function columnTitle({ name, unit, aspect }: Measure): string {
  const label = aspect?.label ?? name;
  return unit.startsWith('/') ? `${label}${unit}` : `${label} ${unit}`;
}

/** With three digits or so. */
export function figureText(value: number): string {
  if (!Number.isFinite(value)) return '-';
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size < 0.1) return value.toFixed(3);
  return value.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0);
}
