/** Several runs as one report. */
import t from 'tap';
import { documentOf } from '../../../bench/harness/document.ts';
import { type Result, ratios } from '../../../bench/harness/measure.ts';
import { renderPage, renderText } from '../../../bench/harness/render.ts';
import { poolReports } from '../../../bench/harness/report.ts';
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
  const [pooled, single] = [poolReports([A, B, C]), A].map((report) => documentOf(report));
  if (pooled === undefined || single === undefined) throw new Error('documents');
  t.match(pooled.tables[0], {
    heads: ['', 'median', 'low', 'high', 'ratio', 'from', 'to'],
    rows: [['nodevmm', '240', '90.0', '300', '1.20', '1.00', '3.00'], []],
  });
  t.match(single.tables[0]?.rows[0], ['nodevmm', '100', '90.0', '110', '1.00']);
  t.match(renderText(pooled, 100), /ratio +from +to/);
  t.match(renderPage(pooled), '<td>1.20</td><td>1.00</td><td>3.00</td>');
  t.match(pooled.legend.join(' '), 'Pooled from 3 runs');
  t.notMatch(single.legend.join(' '), 'Pooled');
});
