import { writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { changeOf, compareReports } from '../../../bench/harness/compare.ts';
import { EMULATED_NOTE } from '../../../bench/harness/host.ts';
import { renderText } from '../../../bench/harness/render.ts';
import { type Report, readReport } from '../../../bench/harness/report.ts';
import { aReport, RATE, RESULTS, row } from '../../support/fixtures/bench-report.ts';
import { testFolder } from '../../support/rigs/files.ts';

const compared = (a: Report, b: Report): string => renderText(compareReports(a, b), 100);

const LOW = [100, 101, 102, 103];
const HIGH = [110, 111, 112, 113];

t.test('what differs by more than noise is told, in the measure’s direction', (t) => {
  const up = changeOf(RATE, LOW, HIGH);
  t.match(up, { verdict: 'better', ratio: 111.5 / 101.5, lowRatio: 110 / 103, highRatio: 1.13 });
  t.equal(changeOf(RATE, HIGH, LOW).verdict, 'worse');
  const lower = { ...RATE, better: 'lower' as const };
  t.equal(changeOf(lower, LOW, HIGH).verdict, 'worse');
  t.equal(changeOf(RATE, LOW, [100, 104, 101, 102]).verdict, 'same');
  t.end();
});

t.test('too few samples say nothing', (t) => {
  t.equal(changeOf(RATE, [1, 2, 3], [10, 11, 12]).verdict, 'unknown');
  t.equal(changeOf(RATE, [], HIGH).verdict, 'unknown');
  t.end();
});

t.test('by the lowest, where the measure says so', (t) => {
  const exits = { ...RATE, better: 'lower' as const, by: 'lowest' as const };
  t.equal(changeOf(exits, [4, 9], [2, 9]).ratio, 0.5);
  t.end();
});

t.test('two reports', (t) => {
  const [rate] = RESULTS;
  if (rate === undefined) throw new Error('no result');
  const changed = {
    ...rate,
    rows: [row('nodevmm', [450, 460, 470, 480]), row('QEMU q35', [430, 431, 440, 450])],
  };
  const more = { ...rate, measure: { ...RATE, name: 'something new' } };
  const text = compared(aReport(true), aReport(true, [changed, more]));
  t.match(text, EMULATED_NOTE);
  t.match(text, /nodevmm +975 +465 +0\.48 +0\.41 +0\.53 +- WORSE/);
  t.match(text, /QEMU q35 +435 +436 +1\.00 .*\d\n/, 'no mark within noise');
  t.match(text, 'net: TCP guest to host: QEMU q35 vhost: only in A');
  t.match(text, 'net: TCP guest to host: host CPU: only in A');
  t.match(text, 'net: something new: only in B');
  t.end();
});

t.test('an emulated report and another one', (t) => {
  t.match(compared(aReport(true), aReport(false)), 'do not compare them');
  t.notMatch(compared(aReport(false), aReport(false)), EMULATED_NOTE);
  t.end();
});

t.test('a file that is no report', (t) => {
  const folder = testFolder(t);
  const write = (name: string, text: string): string => {
    writeFileSync(path.join(folder, name), text);
    return path.join(folder, name);
  };
  t.throws(() => readReport(path.join(folder, 'none')), { code: 'E_REPORT' });
  for (const text of ['{', 'null', '[]', '{"format":"nodevmm-bench/1"}', '{"sites":[]}']) {
    t.throws(() => readReport(write('x', text)), { code: 'E_REPORT' }, text);
  }
  const report = aReport(true);
  t.same(readReport(write('y', JSON.stringify(report))), report);
  t.end();
});
