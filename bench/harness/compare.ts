/** Compares two reports: what changed, and whether by more than the samples scatter. */
import { type Document, type Table, title } from './document.ts';
import { EMULATED_NOTE } from './host.ts';
import { figure, type Measure, type Result, timesAsGood } from './measure.ts';
import { isEmulated, type Report } from './report.ts';
import { figureText, sameSource, spread } from './statistics.ts';

/** Samples that differ this much come from one source with at most this probability. */
const NOISE_LEVEL = 0.03;

/** How a row changed. */
export type Verdict = 'better' | 'worse' | 'same' | 'unknown';

/** How one row differs in the second report. */
export interface Change {
  /** B to A. */
  readonly ratio: number;
  readonly lowRatio: number;
  readonly highRatio: number;
  readonly verdict: Verdict;
}

/** Compares a row's samples in both reports. */
export function changeOf(
  measure: Measure,
  before: readonly number[],
  after: readonly number[],
): Change {
  const [a, b] = [spread(before), spread(after)];
  const [from, to] = [figure(measure, before), figure(measure, after)];
  return {
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

/** The comparison: what both have, in tables. */
export function compareReports(before: Report, after: Report): Document {
  const emulated = [before, after].map(isEmulated);
  const [a = [], b = []] = [before, after].map(({ sites }) =>
    sites.flatMap(({ results }) => results),
  );
  const pairs = a.flatMap((result) => {
    const other = b.find((one) => keyOf(one) === keyOf(result));
    return other === undefined ? [] : [{ result, other }];
  });
  const missing = [
    ...lacking('A', a.map(keyOf), b.map(keyOf)),
    ...pairs.flatMap(({ result, other }) => {
      const [own = [], others = []] = [result, other].map(({ rows }) =>
        rows.map(({ subject }) => `${keyOf(result)}: ${subject}`),
      );
      return [...lacking('A', own, others), ...lacking('B', others, own)];
    }),
    ...lacking('B', b.map(keyOf), a.map(keyOf)),
  ];
  return {
    title: 'nodevmm: benchmarks compared',
    intro: [
      ...(emulated.includes(true) ? [EMULATED_NOTE] : []),
      ...(emulated[0] === emulated[1] ? [] : [UNLIKE_NOTE]),
      ...[`A: ${describe(before)}`, `B: ${describe(after)}`],
    ],
    tables: pairs.map(({ result, other }) => table(result, other)),
    legend: [...missing, ...LEGEND],
  };
}

const UNLIKE_NOTE =
  'ONE of them was measured on an emulated CPU and one was not: do not compare them.';

const LEGEND: readonly string[] = [
  'B/A: of medians (exits: of the lowest), and from the lowest of B to the highest of A up to the other extreme.',
  `Marked is what differs by more than noise: the samples would scatter apart like this by chance in at most ${NOISE_LEVEL * 100} of 100 cases (Mann-Whitney test). ?: too few samples to tell, 4 of each are the least. Noise from one run to the next is not in it: measure A twice to see that.`,
];

const keyOf = ({ group, measure }: Result): string => `${group}: ${measure.name}`;

const lacking = (which: string, own: readonly string[], others: readonly string[]): string[] =>
  own.filter((key) => !others.includes(key)).map((key) => `${key}: only in ${which}`);

function describe({ version, date, rounds, seconds, sites }: Report): string {
  const hosts = sites.map(({ host }) => `${host.cpu}, Linux ${host.kernel}, Node ${host.node}`);
  const how = `${rounds} rounds of ${seconds} s`;
  return `nodevmm ${version}, ${date}, ${how}, ${[...new Set(hosts)].join('; ')}`;
}

function table(a: Result, b: Result): Table {
  const { measure } = b;
  return {
    title: `${a.group}: ${title(measure)}`,
    heads: ['', 'A', 'B', 'B/A', 'from', 'to', ''],
    rows: a.rows.flatMap(({ subject, samples }) => {
      const other = b.rows.find((row) => row.subject === subject);
      if (other === undefined) return [];
      const { ratio, lowRatio, highRatio, verdict } = changeOf(measure, samples, other.samples);
      const values = [figure(measure, samples), figure(measure, other.samples)];
      const figures = [...values, ratio, lowRatio, highRatio].map(figureText);
      return [[subject, ...figures, MARKS[verdict]]];
    }),
  };
}
