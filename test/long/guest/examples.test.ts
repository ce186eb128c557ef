/** The examples of docs/testing.md, as a project that has copied them runs them. */
import { cpSync } from 'node:fs';
import t from 'tap';
import { packageFolder } from '../../../src/host/package-folder.ts';
import { runNode, testProject, VITEST } from '../../support/rigs/test-project.ts';

const EXAMPLES = `${packageFolder}/docs/examples/`;
const folder = testProject(t);
cpSync(EXAMPLES, folder, { recursive: true });

for (const [file, passed] of [
  ['node.test.mjs', 2],
  ['module.test.mjs', 1],
  ['device.test.mjs', 2],
  ['network.test.mjs', 1],
] as const) {
  t.test(file, async (t) => {
    const argv = ['--test', '--test-reporter=tap', file];
    const { status, output } = await runNode(folder, argv, (text) => t.comment(text));
    t.equal(status, 0);
    t.match(output, new RegExp(`^# pass ${passed}$`, 'm'));
  });
}

t.test('vitest.test.mjs', async (t) => {
  const argv = [VITEST, 'run', 'vitest.test.mjs', '--testTimeout', '120000'];
  const { status, output } = await runNode(folder, argv, (text) => t.comment(text));
  t.equal(status, 0);
  t.match(output, /Tests +4 passed/);
});
