/** What a benchmark yields: measures, each with a row of samples for every subject. */
import type { Usage } from './usage.ts';

/** One quantity. */
export interface Measure {
  /** E.g. `TCP guest to host`. */
  readonly name: string;
  readonly unit: 'ms' | 'us' | 'Mbit/s' | 'IOPS' | 'MiB';
  readonly better: 'lower' | 'higher';
  /** What ratios are made of. Default the median; the lowest where samples are many and short. */
  readonly by?: 'lowest';
}

/** The samples of one subject. */
export interface Row {
  readonly subject: string;
  /** The others are set against the best of these. */
  readonly reference: boolean;
  /** In the measure's unit, in the order in which they were taken. */
  readonly samples: readonly number[];
  /** What the last sample cost the subject's process, by thread and by kind of exit. */
  readonly usage?: Usage;
  /** Why there are no samples, or not all of them. */
  readonly failure?: string;
}

/** A measure with all its rows. */
export interface Result {
  readonly group: string;
  readonly measure: Measure;
  readonly rows: readonly Row[];
}

/** Lowest, median and highest of some samples. */
export interface Spread {
  readonly low: number;
  readonly median: number;
  readonly high: number;
}

/** @param samples in any order; NaN for none */
export function spread(samples: readonly number[]): Spread {
  const sorted = samples.toSorted((a, b) => a - b);
  const at = (index: number): number => sorted[index] ?? Number.NaN;
  const half = sorted.length >> 1;
  const median = sorted.length % 2 === 1 ? at(half) : (at(half - 1) + at(half)) / 2;
  return { low: at(0), median, high: at(sorted.length - 1) };
}

/** What stands for a row in ratios; NaN without samples. */
export function figure(measure: Measure, { samples }: Row): number {
  const { low, median } = spread(samples);
  return measure.by === 'lowest' ? low : median;
}

/** How many times as good as the best reference a row is; above 1 it is better. */
export function ratio({ measure, rows }: Result, row: Row): number {
  const figures = rows
    .filter((other) => other.reference && other.samples.length > 0)
    .map((other) => figure(measure, other));
  const own = figure(measure, row);
  if (measure.better === 'lower') return Math.min(...figures) / own;
  return own / Math.max(...figures);
}
