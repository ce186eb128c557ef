/** docs/errors.md has every code that src/ throws, and each error's remedy is apart from its problem. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import {
  countMakers,
  errorPage,
  handWritten,
  mixedTexts,
  PAGE,
  thrownCodes,
} from '../error-table.ts';

t.test('the page has these codes, with these classes, and no others', async (t) => {
  t.equal(readFileSync(PAGE, 'utf8'), errorPage(), 'else: node dist/test/error-table.js --write');
  t.same([...handWritten().keys()], [...thrownCodes().keys()].sort());
});

t.test('each code is explained', async (t) => {
  const silent = [...handWritten()].filter(([, texts]) => texts.some((text) => text.trim() === ''));
  t.same(
    silent.map(([code]) => code),
    [],
  );
});

t.test('a remedy is an argument of its own, not a part of the problem', async (t) => {
  const { constructed, functions } = countMakers();
  t.ok(constructed > 150, `${constructed} errors are seen`);
  t.ok(functions > 10, `${functions} functions that make them, too`);
  t.same(mixedTexts(), []);
});
