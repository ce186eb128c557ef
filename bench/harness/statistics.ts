/** Statistics of samples: their spread, and whether two sets differ by more than chance. */
import {
  combinations,
  errorFunction,
  max,
  median,
  min,
  sampleVariance,
  sum,
} from 'simple-statistics';

/** Lowest, median and highest of some samples. */
export interface Spread {
  readonly low: number;
  readonly median: number;
  readonly high: number;
}

/** @param samples in any order; NaN for none */
export function spread(samples: readonly number[]): Spread {
  const all = [...samples];
  if (all.length === 0) return { low: Number.NaN, median: Number.NaN, high: Number.NaN };
  return { low: min(all), median: median(all), high: max(all) };
}

/** Up to this many samples on both sides, all partitions are counted: 12,870 at most. */
const EXACT_SAMPLES = 16;

/**
 * The two-sided Mann-Whitney test: how likely samples from one source are to be separated at least as
 * much as these two sets. It assumes nothing about their distribution, and has little power for few
 * samples: for 3 and 3 never less than 0.1, for 4 and 4 never less than 0.029.
 * @returns a probability; 1 when there is nothing to compare
 */
export function sameSource(a: readonly number[], b: readonly number[]): number {
  if (a.length === 0 || b.length === 0) return 1;
  const sorted = [...a, ...b].sort((x, y) => x - y);
  const rank = (x: number): number => (sorted.indexOf(x) + sorted.lastIndexOf(x)) / 2;
  const ranks = sorted.map(rank);
  const expected = (a.length * (sorted.length - 1)) / 2;
  const distance = Math.abs(sum(a.map(rank)) - expected);
  if (sorted.length <= EXACT_SAMPLES) {
    const ways = combinations(ranks, a.length);
    return ways.filter((one) => Math.abs(sum(one) - expected) >= distance).length / ways.length;
  }
  // The sum of ranks drawn at random is nearly normal; half a rank less, since sums are whole.
  const variance = ((a.length * b.length) / sorted.length) * sampleVariance(ranks);
  if (variance === 0) return 1;
  const z = Math.max(0, distance - 0.5) / Math.sqrt(variance);
  return Math.min(1, Math.max(Number.EPSILON, 1 - errorFunction(z / Math.SQRT2)));
}

/** A number with three digits or so. */
export function figureText(value: number): string {
  if (!Number.isFinite(value)) return '-';
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size < 0.1) return value.toFixed(3);
  return value.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0);
}
