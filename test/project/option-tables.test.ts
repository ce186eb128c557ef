/** docs/options.md matches the schemas. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { optionPage, PAGE } from '../option-tables.ts';

t.equal(readFileSync(PAGE, 'utf8'), optionPage(), 'else: node dist/test/option-tables.js --write');
