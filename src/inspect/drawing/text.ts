/** A drawing as lines of text. */
import { type Drawing, GUEST_SPACES, labelOf, SPACE_NAMES, SPACES, type Step } from './drawing.ts';
import { boxesOf, cut, wrap } from './layout.ts';

/** The column of the paths' names. */
const NAMES = 10;
const NARROWEST = NAMES + SPACES.length * 8;

/** @param columns of the widest line; what is narrower than a drawing can be is exceeded */
export function drawText(drawing: Drawing, columns: number): string[] {
  const width = Math.floor((Math.max(columns, NARROWEST) - NAMES) / SPACES.length);
  const total = NAMES + width * SPACES.length;
  const lines = [cut(drawing.title, total)];
  const headings = SPACES.map((space) => wrap(SPACE_NAMES[space], width - 1));
  for (let row = 0; row < Math.max(...headings.map(({ length }) => length)); row++) {
    const cells = headings.map((heading) => (heading[row] ?? '').padEnd(width));
    lines.push(' '.repeat(NAMES) + cells.join(''));
  }
  lines.push(...boxLines(drawing, width));
  let path = '';
  for (const step of drawing.steps) {
    lines.push(...stepLines(step, step.path === path ? '' : step.path, width, drawing));
    path = step.path;
  }
  for (const note of drawing.notes) lines.push(...wrap(note, total));
  return lines.map((line) => line.trimEnd());
}

/** A row of characters that is drawn over. */
class Row {
  readonly #cells: string[];

  constructor(length: number) {
    this.#cells = new Array<string>(length).fill(' ');
  }

  put(at: number, text: string): void {
    for (const [i, character] of [...text].entries()) {
      if (at + i < this.#cells.length) this.#cells[at + i] = character;
    }
  }

  toString(): string {
    return this.#cells.join('');
  }
}

/** Where the guest ends. */
const wallOf = (width: number): number => NAMES + GUEST_SPACES * width - 1;
const middleOf = (index: number, width: number): number =>
  NAMES + index * width + Math.floor((width - 1) / 2);

function boxLines(drawing: Drawing, width: number): string[] {
  const inner = width - 3;
  const stacks = [...boxesOf(drawing, inner).values()].map((boxes) =>
    boxes.flatMap(({ title, detail }) => [
      `┌${'─'.repeat(inner)}┐`,
      ...[...title, ...detail].map((line) => `│${line.padEnd(inner)}│`),
      `└${'─'.repeat(inner)}┘`,
    ]),
  );
  const height = Math.max(...stacks.map(({ length }) => length));
  return Array.from({ length: height }, (_, at) => {
    const row = new Row(NAMES + width * SPACES.length);
    row.put(wallOf(width), '║');
    for (const [index, stack] of stacks.entries()) {
      const line = stack[at];
      const lifeline = stack.length > 0 ? '┊' : '';
      if (line !== undefined) row.put(NAMES + index * width, line);
      else row.put(middleOf(index, width), lifeline);
    }
    return row.toString();
  });
}

/** An arrow with its label: in it, next to it, or in a line of its own above. */
function stepLines(step: Step, name: string, width: number, { boxes }: Drawing): string[] {
  const total = NAMES + width * SPACES.length;
  const row = (): Row => {
    const empty = new Row(total);
    empty.put(wallOf(width), '║');
    for (const { space } of boxes) empty.put(middleOf(SPACES.indexOf(space), width), '┊');
    return empty;
  };
  const [from, to] = [step.from, step.to].map((space) => middleOf(SPACES.indexOf(space), width));
  const [start, end] = [Math.min(from ?? 0, to ?? 0), Math.max(from ?? 0, to ?? 0)];
  const label = cut(labelOf(step), total - NAMES);
  const line = row();
  line.put(start, arrow(step, end - start));
  const wall = wallOf(width);
  if (start < wall && wall < end) line.put(wall, step.memory === true ? '╬' : '╫');
  const lines = [line];
  if (label.length <= end - start - 5) line.put(start + 3, ` ${label} `.slice(0, end - start - 3));
  else if (end + 2 + label.length <= total) line.put(end + 2, label);
  else if (start - 1 - label.length >= NAMES) line.put(start - 1 - label.length, label);
  else {
    const above = row();
    above.put(Math.max(NAMES, Math.min(start, total - label.length)), label);
    lines.unshift(above);
  }
  lines[0]?.put(0, name);
  return lines.map((one) => one.toString());
}

/** @param length characters between its ends */
function arrow({ from, to, both = false, memory = false }: Step, length: number): string {
  if (from === to) return '●';
  if (memory) return `●${'═'.repeat(length - 1)}●`;
  const rightward = SPACES.indexOf(from) < SPACES.indexOf(to);
  const left = both || !rightward ? '◀' : '├';
  const right = both || rightward ? '▶' : '┤';
  return `${left}${'─'.repeat(length - 1)}${right}`;
}
