/** The results of a benchmark: measures, each with a row of samples for every subject. */
import { spread } from './statistics.ts';

/** One quantity. */
export interface Measure {
  /** E.g. `TCP guest to host`; unique in its group. */
  readonly name: string;
  readonly unit: string;
  readonly better: 'lower' | 'higher';
  /** The statistic for ratios. Default the median; the lowest where samples are many and short. */
  readonly by?: 'lowest';
  /** Set for values that another measure's runs also yield, e.g. their CPU time. */
  readonly aspect?: Aspect;
}

/** A measure that is shown with another one. */
export interface Aspect {
  /** The other measure's name. */
  readonly of: string;
  /** Heading of its column. */
  readonly label: string;
}

/** The samples of one subject. */
export interface Row {
  readonly subject: string;
  /** The others are compared with the best of these. */
  readonly reference: boolean;
  /** The reference that does its work in the same place, which this one is compared with. */
  readonly peer?: string;
  /** In the measure's unit, in the order in which they were taken. */
  readonly samples: readonly number[];
  /** How many of the samples each run took, where several are pooled. */
  readonly runs?: readonly number[];
  /** Why there are no samples, or not all of them. */
  readonly failure?: string;
  /** What happened while its samples were taken. */
  readonly remark?: string;
}

/** A measure with all its rows. */
export interface Result {
  readonly group: string;
  readonly measure: Measure;
  readonly rows: readonly Row[];
}

/** A row's value for ratios; NaN without samples. */
export function figure(measure: Measure, samples: readonly number[]): number {
  const { low, median } = spread(samples);
  return measure.by === 'lowest' ? low : median;
}

/** How many times as good one value is as another; above 1 it is better. */
export function timesAsGood({ better }: Measure, own: number, other: number): number {
  return better === 'lower' ? other / own : own / other;
}

/** How many samples each run took. */
export const runsOf = ({ samples, runs = [samples.length] }: Row): readonly number[] => runs;

/** A row's samples, by run. */
function samplesByRun(row: Row): (readonly number[])[] {
  let end = 0;
  return runsOf(row).map((count) => {
    end += count;
    return row.samples.slice(end - count, end);
  });
}

/** How many times as good a row is as its peer, else as the best reference, in each run with both. */
export function ratios({ measure, rows }: Result, row: Row): number[] {
  const references = rows
    .filter(({ reference }) => reference)
    .map((other) => ({ name: other.subject, runs: samplesByRun(other) }));
  return samplesByRun(row)
    .map((samples, run) => {
      const present = references.filter(({ runs }) => (runs[run]?.length ?? 0) > 0);
      const peers = present.filter(({ name }) => name === row.peer);
      const figures = (peers.length > 0 ? peers : present).map(({ runs }) =>
        figure(measure, runs[run] ?? []),
      );
      const best = measure.better === 'lower' ? Math.min(...figures) : Math.max(...figures);
      return timesAsGood(measure, figure(measure, samples), best);
    })
    .filter((times) => Number.isFinite(times) && times > 0);
}

/** A measure and its aspects from the same runs. */
export interface Headline {
  readonly result: Result;
  readonly aspects: readonly Result[];
}

/** Puts each measure together with its aspects. */
export function headlines(results: readonly Result[]): Headline[] {
  return results
    .filter(({ measure }) => measure.aspect === undefined)
    .map((result) => ({
      result,
      aspects: results.filter(
        ({ group, measure }) =>
          group === result.group && measure.aspect?.of === result.measure.name,
      ),
    }));
}
