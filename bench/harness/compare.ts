/** Compares two reports: what changed, and whether by more than the samples scatter. */
import { EMULATED_NOTE } from './host.ts';
import { figure, type Measure, type Result, timesAsGood } from './measure.ts';
import { figureText, title } from './notes.ts';
import { isEmulated, type Report } from './report.ts';
import { sameSource, spread } from './statistics.ts';
import { aligned } from './text-bars.ts';

/** Samples that differ this much come from one source with at most this probability. */
const NOISE_LEVEL = 0.03;

/** How a row changed. */
export type Verdict = 'better' | 'worse' | 'same' | 'unknown';

/** One row of both reports. */
export interface Change {
  readonly subject: string;
  readonly before: readonly number[];
  readonly after: readonly number[];
  /** B to A. */
  readonly ratio: number;
  readonly lowRatio: number;
  readonly highRatio: number;
  readonly verdict: Verdict;
}

/** A row's samples in both reports. */
export function changeOf(
  measure: Measure,
  subject: string,
  before: readonly number[],
  after: readonly number[],
): Change {
  const [a, b] = [spread(before), spread(after)];
  const [from, to] = [figure(measure, before), figure(measure, after)];
  return {
    ...{ subject, before, after },
    ratio: to / from,
    lowRatio: b.low / a.high,
    highRatio: b.high / a.low,
    verdict: verdictOf(before, after, timesAsGood(measure, to, from)),
  };
}

function verdictOf(before: readonly number[], after: readonly number[], times: number): Verdict {
  if (before.length === 0 || after.length === 0) return 'unknown';
  // The test's result for samples that do not overlap at all, where there are as many as these.
  const most = sameSource(
    before.map(() => 0),
    after.map(() => 1),
  );
  if (most > NOISE_LEVEL) return 'unknown';
  if (times === 1 || sameSource(before, after) > NOISE_LEVEL) return 'same';
  return times > 1 ? 'better' : 'worse';
}

const MARKS: Readonly<Record<Verdict, string>> = {
  better: '+ better',
  worse: '- WORSE',
  same: '',
  unknown: '?',
};

/** The comparison as text. */
export function compareReports(before: Report, after: Report): string {
  const lines: string[] = [];
  const [a, b] = [before, after].map((report) => report.sites.flatMap((site) => site.results));
  const emulated = [isEmulated(before), isEmulated(after)];
  if (emulated.includes(true)) lines.push(EMULATED_NOTE);
  if (emulated[0] !== emulated[1]) {
    lines.push('ONE of them was measured on an emulated CPU and one was not: do not compare them.');
  }
  lines.push(`A: ${describe(before)}`, `B: ${describe(after)}`, '');
  const missing: string[] = [];
  for (const result of a ?? []) {
    const other = (b ?? []).find((one) => keyOf(one) === keyOf(result));
    if (other === undefined) missing.push(`${keyOf(result)}: only in A`);
    else lines.push(...table(result, other, missing), '');
  }
  for (const result of b ?? []) {
    if (!(a ?? []).some((one) => keyOf(one) === keyOf(result))) {
      missing.push(`${keyOf(result)}: only in B`);
    }
  }
  return [...lines, ...missing, ...(missing.length > 0 ? [''] : []), ...LEGEND].join('\n');
}

const LEGEND: readonly string[] = [
  'B/A: of medians (exits: of the lowest), and from the lowest of B to the highest of A up to the',
  'other extreme. Marked is what differs by more than noise: the samples would scatter apart like',
  `this by chance in at most ${NOISE_LEVEL * 100} of 100 cases (Mann-Whitney test). ?: too few samples to tell, 4 of each`,
  'are the least. Noise from one run to the next is not in it: measure A twice to see that.',
];

const keyOf = ({ group, measure }: Result): string => `${group}: ${measure.name}`;

function describe({ version, date, rounds, seconds, sites }: Report): string {
  const hosts = sites.map(({ host }) => `${host.cpu}, Linux ${host.kernel}, Node ${host.node}`);
  const how = `${rounds} rounds of ${seconds} s`;
  return `nodevmm ${version}, ${date}, ${how}, ${[...new Set(hosts)].join('; ')}`;
}

function table(a: Result, b: Result, missing: string[]): string[] {
  const { measure } = b;
  const rows: string[][] = [['', 'A', 'B', 'B/A', 'from', 'to', '']];
  for (const { subject, samples } of a.rows) {
    const other = b.rows.find((row) => row.subject === subject);
    if (other === undefined) {
      missing.push(`${keyOf(a)}: ${subject}: only in A`);
      continue;
    }
    const change = changeOf(measure, subject, samples, other.samples);
    rows.push([
      subject,
      ...[figure(measure, samples), figure(measure, other.samples)].map(figureText),
      ...[change.ratio, change.lowRatio, change.highRatio].map(figureText),
      MARKS[change.verdict],
    ]);
  }
  for (const { subject } of b.rows) {
    if (!a.rows.some((row) => row.subject === subject)) {
      missing.push(`${keyOf(a)}: ${subject}: only in B`);
    }
  }
  return [`${a.group}: ${title(measure)}`, ...aligned(rows, 1).map((line) => `  ${line}`)];
}
