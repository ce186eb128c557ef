/** `--env`: by value, by name, and not at all. */
import t from 'tap';
import { collectVariable } from '../../../src/cli/environment.ts';

t.test('variables are given by value, or by the value that they have here', (t) => {
  process.env.NODEVMM_TEST_HERE = 'here=1';
  t.teardown(() => delete process.env.NODEVMM_TEST_HERE);
  const all = ['A=1', 'NODEVMM_TEST_HERE', 'NODEVMM_TEST_NONE', 'B=', 'C=x=y\nz', 'A=2'];
  const env = all.reduce<Readonly<Record<string, string>> | undefined>(
    (before, text) => collectVariable(text, before),
    undefined,
  );
  t.strictSame(env, { A: '2', NODEVMM_TEST_HERE: 'here=1', B: '', C: 'x=y\nz' });
  t.strictSame(collectVariable('NODEVMM_TEST_NONE'), {}, 'what is not set here is not set there');
  for (const bad of ['', '=', '=x'])
    t.throws(() => collectVariable(bad), { message: /NAME=VALUE/ });
  t.end();
});
