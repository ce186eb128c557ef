import t from 'tap';
import { RETRIED_MAX, Totals } from '../runner/totals.ts';

const failure = { name: 'it works', detail: '' };

t.test('the last line counts what passed, failed, was skipped and was run again', (t) => {
  const totals = new Totals();
  totals.add({ passed: 3, failures: [], skips: [] });
  t.strictSame(totals.closing, ['', '3 passed, 0 failed']);
  totals.add({ passed: 1, failures: [failure], skips: [failure, failure] });
  t.strictSame(totals.closing, ['', '4 passed, 1 failed, 2 skipped']);
  totals.addRetried('test/guest/a.test.ts', 2);
  t.strictSame(totals.closing, [
    'again   test/guest/a.test.ts: passed only on try 2',
    '',
    '4 passed, 1 failed, 2 skipped, 1 file retried',
  ]);
  totals.addRetried('test/guest/b.test.ts', 3);
  t.equal(totals.closing.at(-1), '4 passed, 1 failed, 2 skipped, 2 files retried');
  t.end();
});

t.test('more files run again than CI allows is a failure', (t) => {
  const totals = new Totals();
  for (let i = 0; i < RETRIED_MAX; i++) totals.addRetried(`test/guest/${i}.test.ts`, 2);
  t.equal(totals.tooManyRetried, undefined);
  totals.addRetried('test/guest/one-more.test.ts', 2);
  t.equal(totals.tooManyRetried, '3 files passed only when run again; CI allows 2');
  t.end();
});
