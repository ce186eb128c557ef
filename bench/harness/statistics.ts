/** What is said of samples: their spread, and whether two sets of them differ by more than chance. */

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

/** The smallest sample that so many percent of all do not exceed (nearest rank); NaN for none. */
export function percentile(samples: readonly number[], percent: number): number {
  const sorted = samples.toSorted((a, b) => a - b);
  const rank = Math.max(1, Math.ceil((percent / 100) * sorted.length));
  return sorted[rank - 1] ?? Number.NaN;
}

/** Up to this many pairs of samples the distribution of U is counted out, not approximated. */
const EXACT_PAIRS = 400;

/**
 * The two-sided Mann-Whitney test: how likely samples from one source are to be parted at least as
 * much as these two sets. It assumes nothing about how they are distributed, and of few samples it
 * can say little: of 3 and 3 never less than 0.1, of 4 and 4 never less than 0.029.
 * @returns a probability; 1 when there is nothing to compare
 */
export function sameSource(a: readonly number[], b: readonly number[]): number {
  const pairs = a.length * b.length;
  if (pairs === 0) return 1;
  let u = 0;
  for (const x of a) for (const y of b) u += x > y ? 1 : x === y ? 0.5 : 0;
  const less = Math.min(u, pairs - u);
  if (pairs > EXACT_PAIRS) return approximate(a, b, less);
  return exact(a.length, b.length, less);
}

/** Counts in how many of all orders U is at most this; ties count as if they were none. */
function exact(m: number, n: number, u: number): number {
  // ways[j][s]: orders of i samples of a and j of b with U = s, for growing i.
  let ways = Array.from({ length: n + 1 }, () => [1]);
  for (let i = 1; i <= m; i++) {
    const next: number[][] = [[1]];
    for (let j = 1; j <= n; j++) {
      const counts = new Array<number>(i * j + 1).fill(0);
      // The greatest is one of a, above all j of b, or one of b.
      for (const [s, count] of (ways[j] ?? []).entries())
        counts[s + j] = (counts[s + j] ?? 0) + count;
      for (const [s, count] of (next[j - 1] ?? []).entries()) counts[s] = (counts[s] ?? 0) + count;
      next.push(counts);
    }
    ways = next;
  }
  const counts = ways[n] ?? [];
  const all = counts.reduce((sum, count) => sum + count, 0);
  const atMost = counts.slice(0, Math.floor(u) + 1).reduce((sum, count) => sum + count, 0);
  return Math.min(1, (2 * atMost) / all);
}

/** By the normal distribution, corrected for ties and for U being whole. */
function approximate(a: readonly number[], b: readonly number[], u: number): number {
  const [m, n] = [a.length, b.length];
  const total = m + n;
  const ties = new Map<number, number>();
  for (const value of [...a, ...b]) ties.set(value, (ties.get(value) ?? 0) + 1);
  let tied = 0;
  for (const count of ties.values()) tied += count ** 3 - count;
  const variance = ((m * n) / 12) * (total + 1 - tied / (total * (total - 1)));
  if (variance === 0) return 1;
  const z = Math.max(0, (m * n) / 2 - u - 0.5) / Math.sqrt(variance);
  return Math.min(1, 2 * upperTail(z));
}

/** The normal distribution's upper tail, by Abramowitz and Stegun 26.2.17: error below 1e-7. */
function upperTail(z: number): number {
  const t = 1 / (1 + 0.231_641_9 * z);
  const sum =
    t *
    (0.319_381_53 +
      t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
  return (Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI)) * sum;
}
