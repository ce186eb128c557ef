/** What is kept of a report. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import t from 'tap';
import { summariesOf, summaryTable } from '../../../bench/summary.ts';
import { aReport } from '../../support/fixtures/bench-report.ts';

t.test('a report in short', async (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-summary-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const file = path.join(folder, 'report.json');
  writeFileSync(file, JSON.stringify(aReport(true)));
  const summaries = summariesOf(file);
  t.same([...summaries.keys()], ['net']);
  const net = summaries.get('net');
  t.match(net, { group: 'net', command: 'nodevmm bench net', emulated: true });
  t.equal(net?.measures.length, 1, 'aspects are left out');
  t.match(net?.measures[0]?.rows[0], { subject: 'nodevmm', median: 975, low: 900, high: 1100 });
  t.match(summaryTable(summaries), '| nodevmm : QEMU q35 | **2.24** | TCP guest to host |');
});

t.test('the worst and the best of several measures', async (t) => {
  const net = (name: string, ratio: number) => ({
    ...{ name, unit: 'x', better: 'higher' as const },
    rows: [
      { subject: 'nodevmm', peer: 'QEMU', ratio: [ratio] as const },
      { subject: 'QEMU', median: 1 },
    ],
  });
  const measures = [net('a', 1.5), net('b', 0.5), net('c', 1)];
  const rest = { group: 'net', date: '2026-01-02', command: '', samples: '', host: '' };
  const table = summaryTable(new Map([['net-x', { ...rest, emulated: true, measures }]]));
  t.match(table, '| nodevmm : QEMU | **1.00** | 0.50 b | 1.50 a | 2026-01-02, lab |');
  t.match(table, '[net-x](../bench/results/net-x.json)');
});
