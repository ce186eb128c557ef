/** What a run says at a terminal and in Markdown. */
import t from 'tap';
import { EMULATED_NOTE } from '../../../bench/harness/host.ts';
import { markdownReport } from '../../../bench/harness/markdown.ts';
import { headlines, ratio } from '../../../bench/harness/measure.ts';
import { figureText } from '../../../bench/harness/notes.ts';
import { terminalReport } from '../../../bench/harness/terminal.ts';
import { aligned, bar } from '../../../bench/harness/text-bars.ts';
import { aReport, RATE, RESULTS, row } from '../../support/fixtures/bench-report.ts';

t.test(
  'bars: eighths of a character, never longer than asked, never nothing for something',
  (t) => {
    t.equal(bar(8, 8, 4), '████');
    t.equal(bar(5, 8, 4), '██▌ ');
    t.equal(bar(0, 8, 4), '    ');
    t.equal(bar(0.001, 8, 4), '▏   ');
    t.equal(bar(9, 8, 2), '██');
    t.equal(bar(1, 0, 2), '  ');
    t.equal(bar(Number.NaN, 8, 2), '  ');
    t.end();
  },
);

t.test('columns', (t) => {
  t.same(
    aligned(
      [
        ['a', '1'],
        ['bb', '22', 'x'],
      ],
      1,
    ),
    ['a    1', 'bb  22  x'],
  );
  t.same(aligned([], 1), []);
  t.end();
});

t.test('figures have about three digits', (t) => {
  const pairs = [
    [1234.5, '1235'],
    [99.94, '99.9'],
    [9.994, '9.99'],
    [0.0123, '0.012'],
    [0, '0'],
    [Number.NaN, '-'],
  ] as const;
  for (const [value, text] of pairs) t.equal(figureText(value), text);
  t.end();
});

t.test('ratios: against the peer, else against the best reference', (t) => {
  const [result] = RESULTS;
  const [own, , q35] = result?.rows ?? [];
  if (result === undefined || own === undefined || q35 === undefined) throw new Error('rows');
  t.equal(ratio(result, own), 975 / 435, 'nodevmm to its peer');
  t.equal(ratio(result, q35), 435 / 2025, 'QEMU to the best of its own');
  const lower = { ...result, measure: { ...RATE, better: 'lower' as const } };
  t.equal(ratio(lower, own), 435 / 975, 'lower is better');
  const alone = { ...result, rows: [row('nodevmm', [1])] };
  t.same(ratio(alone, row('nodevmm', [1])), Number.NaN, 'nothing to set it against');
  const lost = { ...own, peer: 'QEMU that failed' };
  t.equal(ratio(result, lost), 975 / 2025, 'a peer that is not there');
  t.end();
});

t.test('aspects go with their measure', (t) => {
  const [headline, ...others] = headlines(RESULTS);
  t.equal(headline?.result.measure.name, RATE.name);
  t.equal(headline?.aspects.length, 2);
  t.same(others, []);
  t.end();
});

t.test('the table of a terminal', (t) => {
  const text = terminalReport(aReport(true), { profile: false, width: 100 });
  t.match(text, EMULATED_NOTE);
  t.match(text, 'net: without nodevmm vhost: /dev/vhost-net: ENOENT');
  t.match(text, /nodevmm {2,}█+\S* +975 +900 +1100 +2\.24 +12\.0/);
  t.match(text, /nodevmm <script> +failed/);
  t.match(text, 'nodevmm <script> failed: it broke');
  t.match(text, /QEMU q35 vhost \* +█+ +2025 +1900 +2100 +1\.00 +-/);
  t.notMatch(text, 'kicks');
  const profile = terminalReport(aReport(true), { profile: true, width: 120 });
  t.match(profile, /kicks\/packet/);
  t.match(profile, /0\.13/);
  t.notMatch(terminalReport(aReport(false), { profile: false, width: 80 }), EMULATED_NOTE);
  t.end();
});

t.test('tables fit a narrow terminal: bars shrink, then go', (t) => {
  const linesAt = (width: number) =>
    terminalReport(aReport(false), { profile: false, width })
      .split('\n')
      .filter((line) => / \d+ +\d+ +\d+ /.test(line));
  t.ok(linesAt(80).every((line) => line.length <= 80 && line.includes('█')));
  t.notOk(linesAt(60).some((line) => line.includes('█')));
  t.end();
});

t.test('Markdown', (t) => {
  const text = markdownReport(aReport(true));
  t.match(text, EMULATED_NOTE);
  t.match(text, '| nodevmm | 975 | 900 | 1100 | 2.24 | 12.0 |');
  t.match(text, '| :- | -: | -: | -: | -: | -: |');
  t.match(text, '| nodevmm <script> | failed |');
  t.match(text, '\nnodevmm \\<script> failed: it broke\n');
  t.end();
});
