/**
 * The drawings of docs/datapaths.md and docs/inspect.md, made from snapshots like those of machines. What changed goes into
 * the documentation with `node dist/test/drawings.js --write`; a test holds them together.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { drawDevice } from '../src/inspect/drawing/draw-device.ts';
import { drawFunction } from '../src/inspect/drawing/draw-function.ts';
import { drawSvgFile } from '../src/inspect/drawing/svg.ts';
import { drawText } from '../src/inspect/drawing/text.ts';
import { DATAPATHS, PASSED } from './support/fixtures/datapaths.ts';

export const FOLDER = 'docs/drawings';

/** Files, by name, and what has to be in them. */
export function drawings(): ReadonlyMap<string, string> {
  return new Map([
    ...Object.entries(DATAPATHS).map(
      ([name, { device, driver }]) =>
        [`${name}.svg`, drawSvgFile([drawDevice(device, driver)])] as const,
    ),
    ['vfio.svg', drawSvgFile([drawFunction(PASSED.seen, PASSED.driver)])] as const,
  ]);
}

/** Columns of the page's text. */
const COLUMNS = 118;
const [BEGIN, END] = ['<!-- drawing -->\n', '<!-- end of drawing -->\n'];
export const PAGE = 'docs/inspect.md';

/** The page that has a drawing as text, as it has to be. */
export function drawingPage(): string {
  const [before = '', rest = ''] = readFileSync(PAGE, 'utf8').split(BEGIN);
  const { device, driver } = DATAPATHS['in-process'];
  const text = drawText(drawDevice(device, driver), COLUMNS).join('\n');
  return `${before}${BEGIN}\n\`\`\`\n${text}\n\`\`\`\n\n${END}${rest.split(END)[1] ?? ''}`;
}

if (process.argv[2] === '--write') {
  for (const [name, svg] of drawings()) writeFileSync(`${FOLDER}/${name}`, svg);
  writeFileSync(PAGE, drawingPage());
}
