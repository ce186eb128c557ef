/** A report as one self-contained HTML page: charts, tables, where and how it was measured. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageFolder } from '../../src/host/package-folder.ts';
import { element, escapeText, htmlDocument } from '../../src/inspect/markup.ts';
import { EMULATED_NOTE } from '../harness/host.ts';
import { type Headline, headlines, type Result, type Row } from '../harness/measure.ts';
import {
  columnTitle,
  figureText,
  legend,
  omissionLines,
  ratioCells,
  ratioHeads,
  rowLines,
  siteLines,
} from '../harness/notes.ts';
import { isEmulated, type Report, type Site } from '../harness/report.ts';
import { spread } from '../harness/statistics.ts';
import { chart } from './chart.ts';

const STYLE = readFileSync(join(packageFolder, 'bench/page/style.css'), 'utf8');

/** The page. */
export function htmlReport(report: Report): string {
  const { version, date, sites } = report;
  const title = `nodevmm ${version}: benchmarks`;
  const warning = isEmulated(report) ? element('p', { class: 'warning' }, EMULATED_NOTE) : '';
  const body = [
    element('h1', {}, escapeText(title)),
    element('p', { class: 'soft' }, escapeText(date.slice(0, 16).replace('T', ' '))),
    warning,
    KEY,
    ...sites.flatMap(site),
    element('h2', {}, 'How to read this'),
    element('p', {}, escapeText(legend(report).join(' '))),
  ];
  return htmlDocument(title, STYLE, [element('main', {}, body.join('\n'))]);
}

const sample = (shape: string): string =>
  element('svg', { viewBox: '0 0 34 14', 'aria-hidden': 'true' }, shape);

const KEY = element(
  'div',
  { class: 'key' },
  [
    [`<rect class="own" width="34" height="14" rx="2"/>`, 'nodevmm, median'],
    [`<rect class="qemu" width="34" height="14" rx="2"/>`, 'QEMU, median'],
    [
      `<line class="span" x1="2" x2="32" y1="7" y2="7"/><circle class="dot" cx="9" cy="7" r="2.6"/><circle class="dot" cx="22" cy="7" r="2.6"/>`,
      'samples, lowest to highest',
    ],
  ]
    .map(([shape = '', text = '']) => element('span', {}, sample(shape) + text))
    .concat(element('span', {}, '×: how many times as good as its QEMU peer'))
    .join(''),
);

function site(one: Site): string[] {
  const groups = [...new Set(one.results.map(({ group }) => group))];
  const missing = omissionLines(one).map((line) => element('li', {}, escapeText(line)));
  const places = siteLines(one).filter((line) => line !== EMULATED_NOTE);
  return [
    ...places.map((line) => element('p', { class: 'soft' }, escapeText(line))),
    ...(missing.length === 0 ? [] : [element('ul', {}, missing.join(''))]),
    ...groups.flatMap((group) => section(group, one.results)),
  ];
}

function section(group: string, results: readonly Result[]): string[] {
  const measures = headlines(results.filter((result) => result.group === group));
  return [
    element('h2', {}, escapeText(group)),
    ...(measures.length > 1 ? [overview(measures)] : []),
    element('div', { class: 'cards' }, measures.map(card).join('\n')),
  ];
}

/** Medians of all rows and measures; the nearer to the best, the stronger the color. */
function overview(measures: readonly Headline[]): string {
  const names = [
    ...new Set(measures.flatMap(({ result }) => result.rows.map(({ subject }) => subject))),
  ];
  const heads = measures.map(({ result: { measure } }) => {
    const unit = element('span', { class: 'unit' }, escapeText(measure.unit));
    return element('th', {}, `${escapeText(measure.name)}<br>${unit}`);
  });
  const rows = names.map((name) => {
    const cells = measures.map(({ result: { measure, rows } }) => {
      const medians = rows.map(({ samples }) => spread(samples).median).filter(Number.isFinite);
      const own = spread(rows.find(({ subject }) => subject === name)?.samples ?? []).median;
      if (!Number.isFinite(own)) return element('td', {}, '-');
      const higher = measure.better === 'higher';
      const best = higher ? Math.max(...medians) : Math.min(...medians);
      const share = higher ? own / best : best / own;
      const style = `background: rgba(var(--tint), ${(share * 0.32).toFixed(2)})`;
      return element('td', { style, class: own === best ? 'best' : 'figure' }, figureText(own));
    });
    return element('tr', {}, element('td', {}, escapeText(name)) + cells.join(''));
  });
  const table = element(
    'table',
    {},
    element('tr', {}, element('th', {}, 'median') + heads.join('')) + rows.join(''),
  );
  return element(
    'div',
    { class: 'card scroll', style: 'margin-bottom: 18px' },
    table +
      element(
        'p',
        { class: 'soft' },
        'The stronger the colour, the nearer to the best of its column.',
      ),
  );
}

function card({ result, aspects }: Headline): string {
  const { measure, rows } = result;
  const notes = rows.flatMap(rowLines);
  const main = aspects.filter(({ measure: { aspect } }) => aspect?.detail !== true);
  const details = aspects.filter(({ measure: { aspect } }) => aspect?.detail === true);
  const parts = [
    element('h3', {}, escapeText(measure.name)),
    element('p', { class: 'unit' }, escapeText(`${measure.unit}, ${measure.better} is better`)),
    chart(result),
    main.length === 0 ? '' : figures(result, main),
    element('details', {}, element('summary', {}, 'all figures') + figures(result, details, true)),
    notes.length === 0
      ? ''
      : element('ul', {}, notes.map((note) => element('li', {}, escapeText(note))).join('')),
  ];
  return element('section', { class: 'card' }, parts.join('\n'));
}

/** Medians of some aspects for each row. @param whole with the measure's own spread */
function figures(result: Result, aspects: readonly Result[], whole = false): string {
  const own = whole ? ['median', 'low', 'high', ...ratioHeads(result)] : [];
  const heads = ['', ...own, ...aspects.map(({ measure }) => columnTitle(measure))];
  const rows = result.rows.map((row) => {
    const { low, median, high } = spread(row.samples);
    const cells = [
      ...[row.subject].map(escapeText),
      ...(whole ? [...[median, low, high].map(figureText), ...ratioCells(result, row)] : []),
    ].map((text) => element('td', {}, text));
    const others = aspects.map((aspect) => aspectCell(aspect, row.subject));
    return element('tr', {}, [...cells, ...others].join(''));
  });
  const head = heads.map((text) => element('th', {}, escapeText(text))).join('');
  const table = element('table', {}, element('tr', {}, head) + rows.join(''));
  return element('div', { class: 'scroll' }, table);
}

const medianOf = ({ samples }: Row): number => spread(samples).median;

/** A value over a bar that shows its share of the column's highest. */
function aspectCell({ rows }: Result, subject: string): string {
  const row = rows.find((one) => one.subject === subject);
  const median = row === undefined ? Number.NaN : medianOf(row);
  const highest = Math.max(...rows.map(medianOf).filter(Number.isFinite));
  const share = median > 0 ? (100 * median) / highest : 0;
  const style = `background-size: ${share.toFixed(1)}% 70%`;
  return element('td', { class: 'share', style }, figureText(median));
}
