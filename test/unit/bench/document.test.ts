/** What a run says at a terminal and in a page. */
import t from 'tap';
import { documentOf } from '../../../bench/harness/document.ts';
import { EMULATED_NOTE } from '../../../bench/harness/host.ts';
import { headlines, type Measure, ratios } from '../../../bench/harness/measure.ts';
import { renderPage, renderText, textBar } from '../../../bench/harness/render.ts';
import { figureText } from '../../../bench/harness/statistics.ts';
import { aReport, RATE, RESULTS, row } from '../../support/fixtures/bench-report.ts';

const terminal = (emulated: boolean, width: number): string =>
  renderText(documentOf(aReport(emulated)), width);
const page = renderPage(documentOf(aReport(true)));

t.test('bars: eighths of a character, never too long, never nothing for something', (t) => {
  t.equal(textBar(1, 4), '████');
  t.equal(textBar(5 / 8, 4), '██▌ ');
  t.equal(textBar(0, 4), '    ');
  t.equal(textBar(0.0001, 4), '▏   ');
  t.equal(textBar(9 / 8, 2), '██');
  t.equal(textBar(Number.NaN, 2), '  ');
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
  t.same(ratios(result, own), [975 / 435], 'nodevmm to its peer');
  t.same(ratios(result, q35), [435 / 2025], 'QEMU to the best of its own');
  const lower = { ...result, measure: { ...RATE, better: 'lower' as const } };
  t.same(ratios(lower, own), [435 / 975], 'lower is better');
  const alone = { ...result, rows: [row('nodevmm', [1])] };
  t.same(ratios(alone, row('nodevmm', [1])), [], 'nothing to set it against');
  const lost = { ...own, peer: 'QEMU that failed' };
  t.same(ratios(result, lost), [975 / 2025], 'a peer that is not there');
  t.end();
});

t.test('aspects go with their measure', (t) => {
  const [headline, ...others] = headlines(RESULTS);
  t.equal(headline?.result.measure.name, RATE.name);
  t.equal(headline?.aspects.length, 1);
  t.same(others, []);
  t.end();
});

t.test('the table of a terminal', (t) => {
  const text = terminal(true, 100);
  t.match(text, EMULATED_NOTE);
  t.match(text, 'net: without nodevmm vhost: /dev/vhost-net: ENOENT');
  t.match(text, /nodevmm {2,}█+\S* +975 +900 +1100 +2\.24 +12\.0/);
  t.match(text, /nodevmm <script> +failed/);
  t.match(text, 'nodevmm <script> failed: it broke');
  t.match(text, /QEMU q35 vhost \* +█+ +2025 +1900 +2100 +1\.00 +-/);
  t.notMatch(terminal(false, 80), EMULATED_NOTE);
  t.end();
});

t.test('tables fit a narrow terminal: bars shrink, then go', (t) => {
  const linesAt = (width: number) =>
    terminal(false, width)
      .split('\n')
      .filter((line) => / \d+ +\d+ +\d+ /.test(line));
  t.ok(linesAt(80).every((line) => line.length <= 80 && line.includes('█')));
  t.ok(linesAt(60).length > 0);
  t.notOk(linesAt(60).some((line) => line.includes('█')));
  t.end();
});

const VOID = new Set(['meta']);

/** Names of elements that are not closed, or closed in the wrong place. */
function unbalanced(html: string): string[] {
  const open: string[] = [];
  const wrong: string[] = [];
  for (const [, close, name = '', empty] of html.matchAll(
    /<(\/?)([a-z0-9]+)(?:\s[^<>]*?)?(\/?)>/g,
  )) {
    if (VOID.has(name) || empty === '/') continue;
    if (close === '') open.push(name);
    else if (open.pop() !== name) wrong.push(name);
  }
  return [...wrong, ...open];
}

t.test('the page is well-formed', (t) => {
  t.match(page, /^<!doctype html>\n<html lang="en">/);
  t.same(unbalanced(page), []);
  // All text is escaped: what is left of angle brackets is elements.
  const text = page.replace(/<style>.*<\/style>/s, '').replaceAll(/<\/?[a-z!][^<>]*>/g, '');
  t.notMatch(text, /[<>]/);
  t.end();
});

t.test('it loads nothing and runs nothing', (t) => {
  t.notMatch(page, /https?:|src=|href=|url\(|@import|<script|<link/i);
  t.end();
});

t.test('it holds every row, figure and warning', (t) => {
  t.match(page, EMULATED_NOTE);
  for (const text of [
    ...[
      'TCP guest to host',
      'nodevmm &lt;script&gt;',
      'QEMU q35 vhost',
      'it broke',
      '<td>2.24</td>',
    ],
    ...['host CPU s/GB', '/dev/vhost-net: ENOENT', 'Some &lt;CPU&gt; &amp; more'],
  ]) {
    t.ok(page.includes(text), text);
  }
  t.match(page, 'light-dark(');
  t.end();
});

t.test('bars of the page are to scale, with a line from lowest to highest', (t) => {
  const bars = [...page.matchAll(/<rect width="([0-9.]+)%"/g)].map((match) => Number(match[1]));
  const lines = [...page.matchAll(/<line x1="([0-9.]+)%" x2="([0-9.]+)%"/g)];
  t.equal(bars.length, 3, 'none for the row that failed');
  t.same(
    bars,
    [975, 435, 2025].map((median) => Math.round((1000 * median) / 2100) / 10),
  );
  t.same(lines[0]?.slice(1).map(Number), [42.9, 52.4]);
  const nothing = aReport(false, [{ group: 'net', measure: RATE, rows: [row('nodevmm', [])] }]);
  t.notMatch(renderPage(documentOf(nothing)), 'NaN');
  t.end();
});

t.test('a page with several measures has a picture: a bar for each row and measure', (t) => {
  const lower: Measure = { name: 'ping', unit: 'us', better: 'lower' };
  const reads: Measure = { name: 'reads', unit: 'IOPS', better: 'higher' };
  const results = [
    ...RESULTS,
    { group: 'net', measure: lower, rows: [row('nodevmm', [50]), row('QEMU q35', [100])] },
    { group: 'net', measure: reads, rows: [row('QEMU q35', [5])] },
  ];
  const { overviews = [] } = documentOf(aReport(true, results));
  t.same(
    overviews.map(({ title, heads }) => [title, ...heads]),
    [['net: all in one', 'TCP guest to host, Mbit/s', 'ping, us', 'reads, IOPS']],
  );
  const rows = new Map(overviews[0]?.rows);
  t.same(rows.get('nodevmm'), [
    { share: 975 / 2025, lines: ['975', 'host CPU 12.0 s/GB'] },
    { share: 1, lines: ['50.0'] },
    undefined,
  ]);
  t.match(rows.get('QEMU q35'), [{}, { share: 0.5 }, { share: 1 }]);
  t.same(rows.get('nodevmm <script>'), [undefined, undefined, undefined], 'it failed');
  const page = renderPage(documentOf(aReport(true, results)));
  t.match(page, /<rect width="48\.1%" height="100%"\/><\/svg>975<small>host CPU 12\.0 s\/GB</);
  t.notMatch(page, '<script>');
  t.same(documentOf(aReport(true)).overviews, [], 'tables show few measures as well');
  t.end();
});
