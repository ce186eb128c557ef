/** docs/benchmarks.md shows what bench/results has. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { GROUPS } from '../../bench/groups/all.ts';
import { readSummaries, withSummary } from '../../bench/summary.ts';

const page = readFileSync('docs/benchmarks.md', 'utf8');
const summaries = readSummaries();

t.test('the page is up to date: npm run bench -- summary --write', async (t) => {
  t.ok(summaries.size > 0);
  t.equal(withSummary(page, summaries), page);
});

t.test('results are of groups that exist, and their ratios have a peer', async (t) => {
  const groups = GROUPS.map(({ name }) => name);
  for (const { group, command, measures } of summaries.values()) {
    t.ok(groups.includes(group), group);
    t.match(command, `nodevmm bench ${group}`);
    const rows = measures.flatMap((measure) => measure.rows);
    t.ok(rows.length > 0, group);
    t.ok(rows.every(({ peer, ratio }) => (peer === undefined) === (ratio === undefined)));
  }
});

t.test('a page without its markers is refused', async (t) => {
  t.throws(() => withSummary('# Benchmarks\n', summaries), { code: 'E_SUMMARY' });
});
