/** Which tests run: all, but for what runs on demand. */
import t from 'tap';
import { filesOf, GROUPS } from '../runner/plan.ts';

const selected = (...filters: readonly string[]): string[] =>
  GROUPS.flatMap((group) => filesOf(group, filters).map(({ source }) => source));

t.test('without a filter everything runs that is not on demand', async (t) => {
  const all = selected();
  t.ok(all.includes('test/project/plan.test.ts'));
  t.ok(all.includes('test/lab/intel.test.ts'));
  t.notOk(all.some((source) => source.startsWith('test/long/')));
});

t.test('what is on demand runs when its group, folder or file is named', async (t) => {
  for (const filter of ['long', 'test/long', 'test/long/lab/intel.test.ts']) {
    t.ok(selected(filter).includes('test/long/lab/intel.test.ts'), filter);
  }
  t.same(
    selected('long').filter((source) => !source.startsWith('test/long/')),
    [],
    'and nothing else with it',
  );
});
