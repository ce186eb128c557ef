/** From an empty folder to a test with machines, with each installer; and a lab that stays while the project changes. */
import { existsSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { blocksOf } from '../../support/fixtures/tutorial.ts';
import { PackageUser } from '../../support/rigs/installed-package.ts';
import { INSTALLERS, installersMissing } from '../../support/rigs/installers.ts';

t.setTimeout(1_800_000);

/** Prints how long each step of a test took. */
const stopwatch =
  (t: Test) =>
  async <T>(what: string, step: () => Promise<T>): Promise<T> => {
    const start = performance.now();
    const value = await step();
    t.comment(`${what}: ${((performance.now() - start) / 1000).toFixed(1)} s`);
    return value;
  };

const { project } = await PackageUser.install();
t.teardown(() => project.close());

t.test('from zero to a virtual machine in a test, as docs/testing.md says', async (t) => {
  const blocks = blocksOf('testing.md');
  for (const { file, text } of blocks) if (file !== undefined) project.write(file, text);
  const timed = stopwatch(t);
  // The newest for each Node.js.
  const vitest = process.versions.node.startsWith('20.') ? 'vitest@4' : 'vitest';
  await timed('npm install', () => project.add(vitest));
  let output = await timed('npx vitest run vm.test.js', () =>
    project.run('npx', 'vitest', 'run', 'vm.test.js'),
  );
  t.comment(output);
  t.match(output, /Tests +4 passed/);
  output = await timed('node --test node.test.js', () =>
    project.run('node', '--test', '--test-reporter=tap', 'node.test.js'),
  );
  t.match(output, /^# pass 1$/m);
  const results = join(project.path, 'test-results');
  t.notOk(existsSync(results), 'what passes leaves nothing');

  const [{ text = '' } = {}] = blocks.filter(({ file }) => file === 'node.test.js');
  project.write('failing.test.js', text.replace('Linux', 'Minix'));
  await t.rejects(project.run('node', '--test', 'failing.test.js'));
  const machine = readFileSync(join(results, 'failing-runs-commands/machine.json'), 'utf8');
  t.match(JSON.parse(machine), { state: 'running', breaches: [], problems: [] });
  const console = readFileSync(join(results, 'failing-runs-commands/console.log'), 'utf8');
  t.match(console, 'nodevmm-init: userspace reached');
});

const skip = await installersMissing();
for (const [name, installer] of Object.entries(INSTALLERS)) {
  t.test(`a test with a machine, installed by ${name}`, { skip }, async (t) => {
    const timed = stopwatch(t);
    const { project } = await timed(`${name}: nodevmm`, () => PackageUser.install(installer));
    t.teardown(() => project.close());
    await timed(`${name}: vitest`, () => project.add('vitest'));
    for (const { file, text } of blocksOf('testing.md')) {
      if (file !== undefined) project.write(file, text);
    }
    const vitest = ['node_modules/vitest/vitest.mjs', 'run', 'vm.test.js', '-t', 'runs commands'];
    const output = await timed('vitest run', () => project.run('node', ...vitest));
    t.match(output, /Tests +1 passed/);
  });
}

t.test('a kept lab has the files of the project as they are', async (t) => {
  const lab = async (...argv: readonly string[]): Promise<string> => {
    // A second is how long a change may take to show (docs/lab.md).
    await delay(1000);
    return await project.run('npx', 'nodevmm', 'lab', ...argv);
  };
  await lab('--keep');
  t.teardown(() => lab('--stop'));
  const file = project.write('text.txt', 'one');
  t.equal(await lab('cat', file), 'one');
  // Of the same length, then of others.
  for (const text of ['two', 'three', '']) {
    project.write('text.txt', text);
    t.equal(await lab('cat', file), text, 'edited in place');
  }
  renameSync(project.write('new.txt', 'four'), file);
  t.equal(await lab('cat', file), 'four', 'replaced, as editors do');
  const program = project.write('word.mjs', "export const word = 'a';");
  const script = project.write('say.mjs', "console.log((await import('./word.mjs')).word);");
  t.equal(await lab('node', script), 'a\n');
  project.write('word.mjs', "export const word = 'b';");
  t.equal(await lab('node', script), 'b\n', 'a module');
  rmSync(program);
  const listing = await lab('ls', project.path);
  t.match(listing, /^say\.mjs$/m);
  t.notMatch(listing, /^word\.mjs$/m, 'removed');
});
