import fc from 'fast-check';
import t from 'tap';
import { sameSource, spread } from '../../../bench/harness/statistics.ts';

const close = (actual: number, expected: number, within = 1e-9): boolean =>
  Math.abs(actual - expected) <= within;

t.test('spread: lowest, median, highest, whatever the order', (t) => {
  t.same(spread([3, 1, 2]), { low: 1, median: 2, high: 3 });
  t.same(spread([4, 1, 3, 2]), { low: 1, median: 2.5, high: 4 });
  t.same(spread([]), { low: Number.NaN, median: Number.NaN, high: Number.NaN });
  t.end();
});

t.test('sameSource: exact for few samples', (t) => {
  // 2 of the C(8, 4) = 70 orders part them wholly, 2 of C(6, 3) = 20, 2 of C(10, 5) = 252.
  t.ok(close(sameSource([1, 2, 3, 4], [5, 6, 7, 8]), 2 / 70));
  t.ok(close(sameSource([6, 5, 4], [1, 2, 3]), 2 / 20));
  t.ok(close(sameSource([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]), 2 / 252));
  // U = 1: one order more at each end.
  t.ok(close(sameSource([1, 2, 3, 5], [4, 6, 7, 8]), 4 / 70));
  t.equal(sameSource([1, 3], [2, 2]), 1);
  t.equal(sameSource([], [1, 2]), 1);
  t.end();
});

t.test('sameSource: approximated for many, close to the tables', (t) => {
  const range = (from: number, length: number) => Array.from({ length }, (_, i) => from + i);
  t.ok(sameSource(range(0, 100), range(1000, 100)) < 1e-6);
  t.ok(sameSource(range(0, 100), range(0, 100)) > 0.999);
  t.equal(sameSource(new Array(50).fill(1), new Array(50).fill(1)), 1, 'all equal');
  // 8 and 8 are counted out, 8 and 9 are not: no step between them.
  const even = (from: number, length: number) => range(0, length).map((i) => i * 2 + from);
  const [counted, approximated] = [8, 9].map((n) => sameSource(even(0, 8), even(7, n)));
  const ratio = (approximated ?? 0) / (counted ?? 1);
  t.ok(ratio > 0.6 && ratio < 1.1, `${approximated} to ${counted}`);
  t.end();
});

t.test('sameSource is a probability, and takes both sides alike', (t) => {
  const samples = fc.array(fc.integer({ min: 0, max: 30 }), { minLength: 1, maxLength: 24 });
  fc.assert(
    fc.property(samples, samples, (a, b) => {
      const p = sameSource(a, b);
      return p > 0 && p <= 1 && close(p, sameSource(b, a), 1e-12);
    }),
  );
  t.end();
});
