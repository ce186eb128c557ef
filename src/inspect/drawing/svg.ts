/** A drawing as SVG, in the page's colors or on its own. */
import { element, escapeText } from '../markup.ts';
import {
  crossing,
  type Drawing,
  GUEST_SPACES,
  type Path,
  SPACE_NAMES,
  SPACES,
  type Step,
} from './drawing.ts';
import { type BoxLines, boxesOf, cut, wrap } from './layout.ts';

const MARGIN = 10;
/** The column of the paths' names. */
const NAMES = 76;
const WIDTH = 146;
const GAP = 8;
const RIGHT: number = MARGIN + NAMES + SPACES.length * WIDTH;
/** Of the whole drawing. */
const TOTAL: number = RIGHT + MARGIN;
const FONT = 11.5;
/** Monospaced fonts are 0.6 of their size wide, or a little more. */
const CHARACTER: number = FONT * 0.61;
const LINE = 15;
const TITLE_Y = 24;
const HEADINGS_Y = 50;
const BOXES_Y = 62;
const PADDING = 6;
const STEP = 34;
/** Baselines in a step: of its label, and of its arrow. */
const LABEL_Y = 12;
const ARROW_Y = 21;
const BETWEEN_PATHS = 8;
const HEAD = 7;

/** Characters in a box's line, and from edge to edge. */
const IN_BOX: number = Math.floor((WIDTH - GAP - 2 * PADDING) / CHARACTER);
const IN_ALL: number = Math.floor((TOTAL - 2 * MARGIN) / CHARACTER);
const IN_LABEL: number = Math.floor((TOTAL - 2 * MARGIN - NAMES) / CHARACTER);

/** The style of drawings, for a page that holds some; it names nothing else's elements. */
export const DRAWING_STYLE: string = `
.drawing {
  --back: #ffffff; --guest: #eef4fd; --host: #f6f7f9; --ink: #1c2229; --soft: #5c6773; --edge: #c3cad3; --wall: #5c6773;
  --rings: #7b3fb5; --control: #5c6773; --data: #1f5fd0; --kick: #b35c00; --interrupt: #14804a;
}
@media (prefers-color-scheme: dark) {
  .drawing {
    --back: #1a2027; --guest: #1c2838; --host: #20272f; --ink: #e5eaf0; --soft: #98a4b1; --edge: #4a5663; --wall: #98a4b1;
    --rings: #cfa5f5; --control: #b3bdc8; --data: #8ab6ff; --kick: #ffb866; --interrupt: #5fd39a;
  }
}
.drawing .back { fill: var(--back); }
.drawing .space { fill: var(--host); }
.drawing .space.guest { fill: var(--guest); }
.drawing .border { stroke: var(--edge); }
.drawing .wall { stroke: var(--wall); stroke-width: 2; }
.drawing .life { stroke: var(--edge); stroke-dasharray: 2 4; }
.drawing .box { fill: var(--back); stroke: var(--soft); }
.drawing text {
  fill: var(--ink); text-anchor: start; white-space: pre;
  font: ${FONT}px ui-monospace, Menlo, 'DejaVu Sans Mono', 'Liberation Mono', monospace;
}
.drawing text.soft { fill: var(--soft); font-size: ${FONT}px; }
.drawing text.middle { text-anchor: middle; }
.drawing text.end { text-anchor: end; }
.drawing .bold { font-weight: 600; }
.drawing .label { paint-order: stroke; stroke: var(--host); stroke-width: 4; stroke-linejoin: round; }
.drawing .arrow { fill: none; stroke-width: 1.75; }
.drawing .memory { stroke-width: 5; }
${(['rings', 'control', 'data', 'kick', 'interrupt'] satisfies Path[])
  .map(
    (path) =>
      `.drawing .${path} .arrow { stroke: var(--${path}); } .drawing .${path} .tip { fill: var(--${path}); }\n` +
      `.drawing .${path} .name, .drawing .${path} .bold { fill: var(--${path}); }`,
  )
  .join('\n')}
.drawing .inner { stroke-width: 2; stroke: var(--back); }
`;

/** One drawing. @param y its top, in a larger one */
export function drawSvg(
  drawing: Drawing,
  y = 0,
): { readonly svg: string; readonly height: number } {
  const boxes = [...boxesOf(drawing, IN_BOX).values()];
  const boxesEnd = BOXES_Y + Math.max(...boxes.map((stack) => stackHeight(stack)));
  const rows = stepRows(drawing.steps, boxesEnd + 10);
  const stepsEnd = rows.end + 6;
  const notes = drawing.notes.flatMap((note) => wrap(note, IN_ALL));
  const height = stepsEnd + notes.length * LINE + MARGIN;
  const parts = [
    element('title', {}, escapeText(drawing.title)),
    element('rect', { class: 'back', width: TOTAL, height, rx: 8 }),
    text(MARGIN, TITLE_Y, 'bold', cut(drawing.title, IN_ALL)),
    ...SPACES.map(
      (space, index) =>
        element('rect', {
          class: index < GUEST_SPACES ? 'space guest' : 'space',
          x: leftOf(index),
          y: HEADINGS_Y - 14,
          width: WIDTH,
          height: stepsEnd - HEADINGS_Y + 14,
        }) + text(middleOf(index), HEADINGS_Y, 'soft middle', SPACE_NAMES[space]),
    ),
    ...boxes.flatMap((stack, index) =>
      stack.length === 0
        ? []
        : [line('life', middleOf(index), BOXES_Y + stackHeight(stack), middleOf(index), stepsEnd)],
    ),
    ...SPACES.slice(1).map((_, index) =>
      line('border', leftOf(index + 1), HEADINGS_Y - 14, leftOf(index + 1), stepsEnd),
    ),
    line('wall', leftOf(GUEST_SPACES), HEADINGS_Y - 14, leftOf(GUEST_SPACES), stepsEnd),
    ...boxes.map((stack, index) => boxStack(stack, index)),
    ...rows.parts,
    ...notes.map((note, at) => text(MARGIN, stepsEnd + (at + 1) * LINE, 'soft', note)),
  ];
  const svg = element(
    'svg',
    {
      class: 'drawing',
      xmlns: 'http://www.w3.org/2000/svg',
      viewBox: `0 0 ${TOTAL} ${height}`,
      width: TOTAL,
      height,
      ...(y === 0 ? {} : { y }),
      role: 'img',
      'aria-label': drawing.title,
    },
    parts.join('\n'),
  );
  return { svg, height };
}

/** A file that holds drawings, one below the other. */
export function drawSvgFile(drawings: readonly Drawing[]): string {
  let height = 0;
  const parts = drawings.map((drawing) => {
    const one = drawSvg(drawing, height);
    height += one.height + MARGIN;
    return one.svg;
  });
  height = Math.max(height - MARGIN, 1);
  const attributes = {
    xmlns: 'http://www.w3.org/2000/svg',
    viewBox: `0 0 ${TOTAL} ${height}`,
    width: TOTAL,
    height,
  };
  return `${element('svg', attributes, [element('style', {}, DRAWING_STYLE), ...parts].join('\n'))}\n`;
}

const leftOf = (index: number): number => MARGIN + NAMES + index * WIDTH;
const middleOf = (index: number): number => leftOf(index) + WIDTH / 2;

function text(x: number, y: number, style: string, content: string): string {
  return element('text', { class: style, x, y }, escapeText(content));
}

function line(style: string, x1: number, y1: number, x2: number, y2: number): string {
  return element('line', { class: style, x1, y1, x2, y2 });
}

function boxHeight({ title, detail }: BoxLines): number {
  return (title.length + detail.length) * LINE + PADDING + 3;
}

function stackHeight(stack: readonly BoxLines[]): number {
  return stack.reduce((sum, box) => sum + boxHeight(box) + GAP, 0);
}

function boxStack(stack: readonly BoxLines[], index: number): string {
  let y = BOXES_Y;
  const parts: string[] = [];
  for (const box of stack) {
    const x = leftOf(index) + GAP / 2;
    const height = boxHeight(box);
    parts.push(element('rect', { class: 'box', x, y, width: WIDTH - GAP, height, rx: 5 }));
    for (const [at, content] of [...box.title, ...box.detail].entries()) {
      const style = at < box.title.length ? 'bold middle' : 'soft middle';
      parts.push(text(middleOf(index), y + (at + 1) * LINE - 1, style, content));
    }
    y += height + GAP;
  }
  return parts.join('');
}

/** @param top of the first row */
function stepRows(
  steps: readonly Step[],
  top: number,
): { readonly parts: string[]; readonly end: number } {
  let y = top;
  const parts: string[] = [];
  for (const [at, step] of steps.entries()) {
    const isFirst = steps[at - 1]?.path !== step.path;
    if (isFirst && at > 0) y += BETWEEN_PATHS;
    const name = isFirst ? text(MARGIN, y + ARROW_Y, 'name bold', step.path) : '';
    parts.push(element('g', { class: step.path }, name + stepRow(step, y)));
    y += STEP;
  }
  return { parts, end: y };
}

/** An arrow, and its label above it, from where it starts on the left or as far to the right as it fits. */
function stepRow(step: Step, y: number): string {
  const [from, to] = [step.from, step.to].map((space) => middleOf(SPACES.indexOf(space)));
  const [start, end] = [Math.min(from ?? 0, to ?? 0), Math.max(from ?? 0, to ?? 0)];
  const boundary = crossing(step);
  const label = cut(step.text, IN_LABEL - (boundary === undefined ? 0 : boundary.length + 2));
  const length = label.length + (boundary === undefined ? 0 : boundary.length + 2);
  const x = Math.min(start + 6, RIGHT - 4 - length * CHARACTER);
  const spans =
    boundary === undefined
      ? escapeText(label)
      : `${element('tspan', { class: 'bold' }, escapeText(boundary))}${escapeText(`: ${label}`)}`;
  const written = element(
    'text',
    { class: 'label', x: round(Math.max(x, MARGIN + NAMES)), y: y + LABEL_Y },
    spans,
  );
  return shape(step, start, end, y + ARROW_Y) + written;
}

function shape(
  { from, to, both = false, memory = false }: Step,
  start: number,
  end: number,
  y: number,
): string {
  const dot = (x: number): string => element('circle', { class: 'tip', cx: x, cy: y, r: 5 });
  if (start === end) return dot(start);
  if (memory) {
    const bar = (style: string): string => line(style, start, y, end, y);
    return bar('arrow memory') + bar('inner') + dot(start) + dot(end);
  }
  const rightward = SPACES.indexOf(from) < SPACES.indexOf(to);
  const tip = (x: number, direction: number): string =>
    element('path', { class: 'tip', d: `M${x} ${y}l${-HEAD * direction} -4.5v9z` });
  return [
    line('arrow', start + 2, y, end - 2, y),
    ...(rightward || both ? [tip(end, 1)] : []),
    ...(!rightward || both ? [tip(start, -1)] : []),
  ].join('');
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
