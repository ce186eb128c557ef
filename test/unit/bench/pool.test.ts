/** Several runs as one report. */
import t from 'tap';
import { markdownReport } from '../../../bench/harness/markdown.ts';
import { type Result, ratio, ratios } from '../../../bench/harness/measure.ts';
import { legend } from '../../../bench/harness/notes.ts';
import { poolReports } from '../../../bench/harness/pool.ts';
import { terminalReport } from '../../../bench/harness/terminal.ts';
import { htmlReport } from '../../../bench/page/page.ts';
import { aReport, RATE, row } from '../../support/fixtures/bench-report.ts';

const run = (own: readonly number[], peer: readonly number[], more = {}): Result => ({
  group: 'net',
  measure: RATE,
  rows: [row('nodevmm', own, { peer: 'QEMU q35', ...more }), row('QEMU q35', peer)],
});

const [A, B, C] = [
  aReport(true, [run([90, 110], [100, 100])]),
  aReport(true, [run([240], [100, 300], { failure: 'it died' })]),
  aReport(true, [run([300, 300], [100, 100])]),
];

t.test('one run is left as it is', async (t) => {
  t.equal(poolReports([A]), A);
});

t.test('samples of all runs, and a ratio of each', async (t) => {
  const pooled = poolReports([A, B, C]);
  t.equal(pooled.runs, 3);
  const [site] = pooled.sites;
  const [result] = site?.results ?? [];
  const [own, peer] = result?.rows ?? [];
  if (result === undefined || own === undefined || peer === undefined) throw new Error('rows');
  t.same(own.samples, [90, 110, 240, 300, 300]);
  t.same(own.runs, [2, 1, 2]);
  t.equal(own.failure, 'run 2: it died');
  t.same(ratios(result, own), [1, 1.2, 3]);
  t.equal(ratio(result, own), 1.2);
  t.equal(site?.omissions.length, 1, 'what all runs leave out is told once');
});

t.test('what only some runs have', async (t) => {
  const other = { ...run([1], [2]), measure: { ...RATE, name: 'another' } };
  const lone = aReport(true, [run([50], []), other]);
  const [first, second] = poolReports([A, lone]).sites[0]?.results ?? [];
  t.same(first && ratios(first, first.rows[0] ?? row('', [])), [1], 'no peer in the second run');
  t.same(second?.rows[0]?.runs, [0, 1]);
  t.same(second && ratios(second, second.rows[0] ?? row('', [])), [0.5]);
  t.equal(poolReports([{ ...A, sites: [] }, B]).sites.length, 1, 'a place');
});

t.test('a pool of pools counts all runs', async (t) => {
  const pooled = poolReports([poolReports([A, B]), C]);
  t.equal(pooled.runs, 3);
  t.same(pooled.sites[0]?.results[0]?.rows[0]?.runs, [2, 1, 2]);
});

t.test('tables and page have the ratios from the lowest to the highest', async (t) => {
  const pooled = poolReports([A, B, C]);
  t.match(markdownReport(pooled), '| nodevmm | 240 | 90.0 | 300 | 1.20 | 1.00 | 3.00 |');
  t.match(markdownReport(A), '| nodevmm | 100 | 90.0 | 110 | 1.00 |');
  t.match(terminalReport(pooled, { profile: false, width: 100 }), /ratio +from +to/);
  t.match(htmlReport(pooled), '<td>1.20</td><td>1.00</td><td>3.00</td>');
  t.match(legend(pooled).join(' '), 'Pooled from 3 runs');
  t.notMatch(legend(A).join(' '), 'Pooled');
});
