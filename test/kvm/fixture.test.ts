/** Fixtures under both test runners, with kernels of a few bytes: what failed tests leave, and nothing else. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { ECHO, elfKernel, HALT, KERNEL_GPA, out, print } from '../support/fixtures/kernel-image.ts';
import { type ProgramRun, runNode, testProject, VITEST } from '../support/rigs/test-project.ts';
import { kvmMissing } from './tiny-guest.ts';

const skip = kvmMissing();
const ENTRIES = fileURLToPath(new URL('../../src/fixture', import.meta.url));

/** A project with guests. */
function makeProject(t: Parameters<typeof testProject>[0]): string {
  const folder = testProject(t);
  const kernel = (name: string, code: readonly number[]): void => {
    const bytes = Uint8Array.from(code);
    const segments = [{ paddr: KERNEL_GPA, bytes }];
    writeFileSync(path.join(folder, name), elfKernel({ segments, pvhEntry: KERNEL_GPA }));
  };
  kernel('echo', ECHO);
  kernel('panics', [...print('started'), ...out(0x505, 1), ...HALT]);
  return folder;
}

interface Run extends ProgramRun {
  /** Files below test-results. */
  readonly kept: readonly string[];
}

/** Runs a test file to its end. */
async function run(folder: string, argv: readonly string[]): Promise<Run> {
  const results = path.join(folder, 'test-results');
  const program = await runNode(folder, argv);
  const paths = existsSync(results)
    ? readdirSync(results, { recursive: true, encoding: 'utf8', withFileTypes: true })
    : [];
  const kept = paths
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(results, path.join(entry.parentPath, entry.name)));
  return { ...program, kept: kept.sort() };
}

const FILES = ['console.log', 'inspect.json', 'machine.json', 'serial.log'];
const below = (folder: string, files: readonly string[] = FILES): string[] =>
  files.map((file) => `${folder}/${file}`);

const read = (folder: string, file: string): string =>
  readFileSync(path.join(folder, 'test-results', file), 'utf8');

const OPTIONS = '{ kernel: "echo", agent: null, memory: 64 * 2 ** 20, rng: false, lab: "never" }';
/** Resolves when the guest runs, and has printed. */
const STARTED = `
const started = async (vm) => {
  vm.serial.write('started');
  let printed = '';
  for await (const bytes of vm.serial) if ((printed += bytes).includes('started')) break;
};`;

const NODE_TESTS = `
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { machineFor, sharedMachine } from '${ENTRIES}/node-test.js';
const options = ${OPTIONS};
const settings = { trace: true };
const files = [];
${STARTED}
test('passes', async (t) => {
  const vm = await machineFor(t, options, settings);
  files.push(vm);
  await started(vm);
});
test('was closed', () => {
  assert.deepEqual(files.map(({ state }) => state), ['disposed']);
});
test('fails', async (t) => {
  const vm = await machineFor(t, options, settings);
  await machineFor(t, options);
  await started(vm);
  assert.equal(vm.state, 'ended');
});
test('fails in a subtest', async (t) => {
  const vm = await machineFor(t, options);
  await t.test('passes', () => started(vm));
  await t.test('fails', () => assert.fail('on purpose'));
});
test('fails: closed early', async (t) => {
  await using vm = await machineFor(t, options);
  await started(vm);
  assert.fail('on purpose');
});
test('fails: no such kernel', (t) => machineFor(t, { ...options, kernel: 'absent' }));
test('fails: late', { timeout: 500 }, async (t) => {
  await machineFor(t, { ...options, agent: 'org.nodevmm.agent' });
});
test('fails: panics', async (t) => {
  const vm = await machineFor(t, { ...options, kernel: 'panics' });
  assert.equal((await vm.wait()).reason, 'power-off');
});
test('fails: does not boot', async (t) => {
  await machineFor(t, { ...options, agent: 'none' }, { bootTimeout: 200 });
});
describe('a suite', () => {
  const shared = sharedMachine(options);
  test('passes', () => assert.equal(shared.vm.state, 'running'));
  test('fails', () => assert.equal(shared.vm.state, 'ended'));
});
describe('another suite', () => {
  const shared = sharedMachine(options);
  test('passes', () => assert.equal(shared.vm.state, 'running'));
});
`.replace(
  'await using vm',
  // JavaScript has it since Node.js 24.
  Number(process.versions.node.split('.')[0]) < 24 ? 'const vm' : 'await using vm',
);

t.test('node:test', { skip }, async (t) => {
  const folder = makeProject(t);
  writeFileSync(path.join(folder, 'all.test.mjs'), NODE_TESTS);
  const { status, output, kept } = await run(folder, [
    '--test',
    '--test-reporter=tap',
    'all.test.mjs',
  ]);
  t.equal(status, 1);
  t.match(output, /^# pass 5$/m);
  t.match(output, /^# fail 8$/m);
  t.match(output, /^# cancelled 1$/m);
  const expected = [
    ...below('all-a-suite'),
    ...below('all-fails', [...FILES, 'trace.json', ...below('vm2', [...FILES, 'trace.json'])]),
    ...below('all-fails-closed-early'),
    ...below('all-fails-does-not-boot'),
    ...below('all-fails-in-a-subtest'),
    ...below('all-fails-late'),
    ...below('all-fails-no-such-kernel'),
    ...below('all-fails-panics', ['console.log', 'machine.json', 'serial.log']),
  ];
  t.same(kept, expected.sort());
  for (const name of new Set(kept.map((file) => path.dirname(file)))) {
    t.ok(output.includes(`kept in test-results/${name.replace(/\/vm2$/, '')}\n`), name);
  }
  t.match(read(folder, 'all-fails/serial.log'), 'started');
  const { traceEvents } = JSON.parse(read(folder, 'all-fails/trace.json')) as {
    traceEvents: unknown[];
  };
  t.ok(traceEvents.length > 0);
  t.match(JSON.parse(read(folder, 'all-fails/inspect.json')), {
    state: 'running',
    devices: [{ name: 'console0' }],
  });
  t.match(JSON.parse(read(folder, 'all-fails/machine.json')), {
    state: 'running',
    breaches: [],
    metrics: { state: 'running', exits: {} },
    problems: [],
  });
  t.match(JSON.parse(read(folder, 'all-fails-panics/machine.json')), {
    state: 'ended',
    exit: { reason: 'panic' },
    problems: [/not running/],
  });
  t.match(output, /did not answer within 200 ms/);
});

const VITEST_TESTS = `
import { expect, describe } from 'vitest';
import { machineTest } from '${ENTRIES}/vitest.js';
const options = ${OPTIONS};
const test = machineTest(options);
const machines = [];
${STARTED}
test('passes', async ({ vm }) => {
  machines.push(vm);
  await started(vm);
});
test('was closed', () => {
  expect(machines.map(({ state }) => state)).toEqual(['disposed']);
});
test('fails', async ({ vm, machineFor }) => {
  await machineFor();
  await started(vm);
  expect(vm.state).toBe('ended');
});
test.fails('fails as it should', async ({ vm }) => {
  expect(vm.state).toBe('ended');
});
let tries = 0;
test('passes at last', { retry: 1 }, async ({ vm }) => {
  expect(tries++).toBe(1);
});
test('fails: late', { timeout: 500 }, async ({ vm }) => {
  await new Promise(() => {});
});
const booted = machineTest({ ...options, agent: 'none' }, { bootTimeout: 200 });
booted('fails: does not boot', ({ vm }) => {});
for (const cpus of [1, 2, 3]) {
  const test = machineTest({ ...options, cpus }, { scope: 'file', results: 'shared-results' });
  describe(cpus + ' CPUs', () => {
    let first;
    test('pass', ({ vm }) => {
      first = vm;
    });
    test('share a machine', ({ vm }) => {
      expect(vm).toBe(first);
      if (cpus < 3) expect(vm.state).toBe('ended');
    });
  });
}
`;

for (const pool of ['forks', 'threads']) {
  t.test(`Vitest in ${pool}`, { skip }, async (t) => {
    const folder = makeProject(t);
    writeFileSync(path.join(folder, 'all.test.mjs'), VITEST_TESTS);
    const { status, output, kept } = await run(folder, [VITEST, 'run', '--pool', pool]);
    t.equal(status, 1);
    t.match(output, /Tests +5 failed \| 7 passed \| 1 expected fail/);
    const expected = [
      ...below('all-fails', [...FILES, ...below('vm2')]),
      ...below('all-fails-does-not-boot'),
      ...below('all-fails-late'),
      ...below('all-passes-at-last'),
    ];
    t.same(kept, expected.sort());
    t.same(readdirSync(path.join(folder, 'shared-results')), ['all', 'all-2']);
    t.match(read(folder, 'all-fails/serial.log'), 'started');
  });
}
