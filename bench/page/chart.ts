/** A measure as a chart: a bar for each row's median, its samples as dots, a line from lowest to highest. */
import { scaleLinear } from 'd3-scale';
import { element, escapeText } from '../../src/inspect/markup.ts';
import { figure, type Result, type Row, ratio } from '../harness/measure.ts';
import { figureText } from '../harness/notes.ts';
import { spread } from '../harness/statistics.ts';

const WIDTH = 600;
const NAMES = 150;
const FIGURES = 128;
const ROW = 34;
const BAR = 18;
const TOP = 6;
const AXIS = 22;
const DOT = 2.6;
const TICKS = 5;
/** More samples than this are shown by their line alone. */
const MOST_DOTS = 40;

/** The color of a row. */
export const familyOf = ({ subject }: Row): string =>
  subject.startsWith('nodevmm') ? 'own' : subject.startsWith('QEMU') ? 'qemu' : 'other';

/** The chart as an SVG element; colors and fonts come from the page's style. */
export function chart(result: Result): string {
  const { measure, rows } = result;
  const highest = Math.max(0, ...rows.flatMap(({ samples }) => samples));
  const scale = scaleLinear([0, highest > 0 ? highest : 1], [NAMES, WIDTH - FIGURES]).nice(TICKS);
  const bottom = TOP + rows.length * ROW;
  const label = scale.tickFormat(TICKS);
  const axis = scale.ticks(TICKS).map((tick) => {
    const x = scale(tick).toFixed(1);
    return (
      element('line', { class: 'grid', x1: x, x2: x, y1: TOP, y2: bottom }) +
      element('text', { class: 'tick', x, y: bottom + 15, 'text-anchor': 'middle' }, label(tick))
    );
  });
  const bars = rows.map((row, index) => {
    const middle = TOP + index * ROW + ROW / 2;
    return bar(result, row, middle, (value) => scale(value));
  });
  const size = {
    viewBox: `0 0 ${WIDTH} ${bottom + AXIS}`,
    role: 'img',
    'aria-label': `${measure.name}, ${measure.unit}`,
  };
  return element('svg', size, [...axis, ...bars].join(''));
}

function bar(result: Result, row: Row, y: number, x: (value: number) => number): string {
  const { measure } = result;
  const name = element(
    'text',
    { class: 'name', x: NAMES - 10, y: y + 4, 'text-anchor': 'end' },
    escapeText(row.subject),
  );
  if (row.samples.length === 0) {
    return name + element('text', { class: 'tick', x: NAMES + 6, y: y + 4 }, 'failed');
  }
  const { low, median, high } = spread(row.samples);
  const value = figure(measure, row.samples);
  const told = `${row.subject}: median ${figureText(median)} ${measure.unit}, ${figureText(low)} to ${figureText(high)}`;
  const box = {
    class: `bar ${familyOf(row)}`,
    x: NAMES,
    y: y - BAR / 2,
    width: Math.max(1, x(value) - NAMES).toFixed(1),
    height: BAR,
    rx: 2,
  };
  const span = { class: 'span', x1: x(low).toFixed(1), x2: x(high).toFixed(1), y1: y, y2: y };
  const dots =
    row.samples.length > MOST_DOTS
      ? []
      : row.samples.map((sample) =>
          element('circle', { class: 'dot', cx: x(sample).toFixed(1), cy: y, r: DOT }),
        );
  const times = ratio(result, row);
  const figures =
    element('text', { class: 'value', x: WIDTH - 58, y: y + 4 }, figureText(value)) +
    element(
      'text',
      { class: 'times', x: WIDTH - 2, y: y + 4 },
      Number.isFinite(times) ? `×${figureText(times)}` : '',
    );
  const parts = [
    element('title', {}, escapeText(told)),
    name,
    element('rect', box),
    element('line', span),
    ...dots,
    figures,
  ];
  return element('g', {}, parts.join(''));
}
