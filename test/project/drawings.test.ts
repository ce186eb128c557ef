/** The drawings in the documentation are those that the program makes. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { drawingPage, drawings, FOLDER, PAGE } from '../drawings.ts';

const REMEDY = 'else: node dist/test/drawings.js --write';
const current = drawings();
t.same(readdirSync(FOLDER).sort(), [...current.keys()].sort());
for (const [name, svg] of current) t.equal(readFileSync(join(FOLDER, name), 'utf8'), svg, REMEDY);
t.equal(readFileSync(PAGE, 'utf8'), drawingPage(), REMEDY);
