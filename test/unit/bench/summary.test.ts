/** What is kept of a report. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { summariesOf, summaryText } from '../../../bench/summary.ts';
import { aReport } from '../../support/fixtures/bench-report.ts';

t.test('a report in short', async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-summary-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const file = path.join(folder, 'report.json');
  writeFileSync(file, JSON.stringify(aReport(true)));
  const [net, ...others] = summariesOf(file);
  t.same(others, []);
  t.match(net, { group: 'net', command: 'nodevmm bench net', emulated: true });
  t.equal(net?.measures.length, 1, 'aspects are left out');
  t.match(net?.measures[0]?.rows[0], { subject: 'nodevmm', median: 975, low: 900, high: 1100 });
  const text = summaryText(net === undefined ? [] : [net]);
  t.match(text, 'nodevmm : QEMU q35');
  t.match(text, '| TCP guest to host, Mbit/s | 975 : 435, **2.24** |');
});
