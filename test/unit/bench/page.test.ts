/** The page: whole by itself, well-formed, and it shows everything. */
import t from 'tap';
import { EMULATED_NOTE } from '../../../bench/harness/host.ts';
import { chart } from '../../../bench/page/chart.ts';
import { htmlReport } from '../../../bench/page/page.ts';
import { aReport, RESULTS } from '../../support/fixtures/bench-report.ts';

const VOID = new Set(['meta', 'br']);

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

const page = htmlReport(aReport(true));

t.test('it is well-formed', (t) => {
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
  t.notMatch(htmlReport(aReport(false)), EMULATED_NOTE);
  for (const text of [
    ...['TCP guest to host', 'nodevmm &lt;script&gt;', 'QEMU q35 vhost', 'it broke'],
    ...['host CPU s/GB', 'kicks/packet', '/dev/vhost-net: ENOENT', 'Some &lt;CPU&gt; &amp; more'],
  ]) {
    t.ok(page.includes(text), text);
  }
  t.match(page, 'prefers-color-scheme: dark');
  t.end();
});

t.test('a chart: bars to scale, a dot for each sample, a line from lowest to highest', (t) => {
  const [result] = RESULTS;
  if (result === undefined) throw new Error('no result');
  const svg = chart(result);
  t.equal(svg.match(/<circle /g)?.length, 12);
  t.equal(svg.match(/<rect /g)?.length, 3);
  const widths = [...svg.matchAll(/<rect [^>]*width="([0-9.]+)"/g)].map((match) =>
    Number(match[1]),
  );
  const [own = 0, q35 = 0, vhost = 0] = widths;
  t.ok(Math.abs(own / vhost - 975 / 2025) < 0.01);
  t.ok(Math.abs(q35 / vhost - 435 / 2025) < 0.01);
  t.match(svg, '>failed<');
  t.match(svg, '×2.24');
  t.end();
});

t.test('a chart of nothing, and of very many samples', (t) => {
  const [result] = RESULTS;
  if (result === undefined) throw new Error('no result');
  const none = { ...result, rows: result.rows.map((row) => ({ ...row, samples: [] })) };
  t.notMatch(chart(none), 'NaN');
  const many = { ...result, rows: [{ ...(result.rows[0] ?? none), samples: range(500) }] };
  t.notMatch(chart(many as typeof result), '<circle');
  t.end();
});

function range(length: number): number[] {
  return Array.from({ length }, (_, i) => i + 1);
}
