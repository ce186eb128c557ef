/**
 * Runs the compiled tests: `npm test`, `npm test -- unit kvm`, `npm test -- test/unit/bus`;
 * `npm test -- long` those that take long and rarely break, which nothing else runs.
 * The last line is always `N passed, N failed`, with `, N skipped` and `, N files retried` where there
 * were any. With CI=true too many retried files are a failure (RETRIED_MAX in runner/totals.ts).
 * Options: `--no-coverage`; `--raise-floor` lifts the coverage floor; `--verbose` prints all output.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir, totalmem } from 'node:os';
import { basename, join } from 'node:path';
import { parseArgs } from 'node:util';
import { downloadPackage } from '../src/guest/debian.ts';
import { buildGuest, type Guest } from '../src/guest/guests.ts';
import type { KernelSeries } from '../src/guest/kernel.ts';
import { buildModules } from '../src/guest/own-modules.ts';
import { messageOf } from '../src/host/errors.ts';
import { probeKvm } from '../src/kvm/probe.ts';
import { Lab } from '../src/lab/lab.ts';
import { checkFloor, reportCoverage, startCoverage } from './runner/coverage.ts';
import { endAll, type FileResult, runFile } from './runner/file.ts';
import { filesOf, GROUPS, type Group, lostTests, type TestFile } from './runner/plan.ts';
import { Totals } from './runner/totals.ts';
import { MEMTEST_PACKAGE, makeStarter } from './support/fixtures/guest-inputs.ts';

const { values: options, positionals: filters } = parseArgs({
  allowPositionals: true,
  options: {
    'no-coverage': { type: 'boolean' },
    'raise-floor': { type: 'boolean' },
    verbose: { type: 'boolean' },
  },
});
const inCi = process.env.CI === 'true';
const totals = new Totals();

function fail(text: string): void {
  totals.failed++;
  console.log(`not ok  ${text}`);
}

const indent = (text: string): string => text.trimEnd().replace(/^/gm, '        ');

function report({ file, tally, seconds, output }: FileResult, group: Group): void {
  const { passed, failures, skips } = tally;
  totals.add(tally);
  const counts = [
    `${passed} passed`,
    ...(failures.length > 0 ? [`${failures.length} failed`] : []),
    ...(skips.length > 0 ? [`${skips.length} skipped`] : []),
  ].join(', ');
  const mark = failures.length > 0 ? 'not ok' : 'ok    ';
  console.log(`${mark}  ${file.source}: ${counts} (${seconds.toFixed(1)} s)`);
  if (options.verbose) console.log(indent(output));
  for (const { name, detail } of failures) {
    console.log(`        failed: ${name}`);
    if (detail !== '') console.log(indent(detail.replace(/^/gm, '  ')));
  }
  for (const { name, detail } of skips) {
    console.log(`        skipped: ${name}${detail === '' ? '' : `: ${detail}`}`);
  }
  if (failures.length > 0 && !options.verbose) {
    console.log(`        the end of its output:\n${indent(output.slice(-4000))}`);
  }
  if (inCi && group.required && skips.length > 0) {
    fail(`${file.source}: nothing of it may be skipped in CI`);
  }
}

/** A kernel that is downloaded only for tests that boot it. */
const LARGE_KERNEL: KernelSeries = '6.12-amd64';

/** Whether any of the files contains one of the texts. */
const mention = (files: readonly TestFile[], ...texts: readonly string[]): boolean =>
  files.some(({ source }) => {
    const code = readFileSync(source, 'utf8');
    return texts.some((text) => code.includes(text));
  });

/** One CPU: a guest whose thread never migrates meets no stale code (docs/lab.md). */
const TEST_LAB = { cpus: 1, memory: 8 * 2 ** 30 };
/** How often a file is tried in the lab. */
const LAB_ATTEMPTS = 3;

/** Headers, and the drivers that tests load: the lab takes ten times as long to compile them. */
async function prepareModule({ kernelVersion }: Guest): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'nodevmm-starter-'));
  try {
    await buildModules('guests/example/driver', kernelVersion);
    await buildModules('docs/examples/hello', kernelVersion);
    await buildModules(`${makeStarter('my-device', folder)}/driver`, kernelVersion);
  } catch (error) {
    // Tests that need it fail by themselves, with the reason.
    console.log(`miss    ${messageOf(error)}`);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The lab takes half a minute to load tap and nodevmm as six hundred modules, and a third of that from bundles. */
function bundled(group: Group, files: readonly TestFile[]): TestFile[] {
  const folder = `dist/lab/${group.name}`;
  rmSync(folder, { recursive: true, force: true });
  const programs = files.map(({ compiled }) => compiled);
  execFileSync(process.execPath, ['src/bundle.mjs', folder, ...programs], { stdio: 'inherit' });
  return files.map(({ source, compiled }) => ({
    source,
    compiled: join(folder, basename(compiled)),
  }));
}

/** True when a group's files cannot run on this host itself. */
async function needsLab(group: Group, files: readonly TestFile[]): Promise<boolean> {
  if (group.linuxGuests !== true) return false;
  const { usable, detail } = probeKvm();
  if (usable) return false;
  // The lab has no network: what guests are made from must be there before.
  for (const kernel of ['6.12', '6.1'] as const) await buildGuest('minimal', { kernel });
  const minimal = await buildGuest('minimal');
  if (mention(files, 'own-modules.ts', 'fixtures/tutorial.ts', 'docs/examples')) {
    await prepareModule(minimal);
  }
  await buildGuest('tools');
  if (mention(files, `'${LARGE_KERNEL}'`)) await buildGuest('tools', { kernel: LARGE_KERNEL });
  if (mention(files, 'memtestImages')) {
    await downloadPackage(MEMTEST_PACKAGE);
  }
  console.log(`boot    a lab for each lane of the group ${group.name}: ${detail}`);
  return true;
}

/** A lab has a core of its own, and memory that its guests may touch all of. */
const labLanes = (): number =>
  Math.max(1, Math.min(availableParallelism(), Math.floor((0.9 * totalmem()) / TEST_LAB.memory)));

/** Where files run one after the other: on this host, or in a lab that is booted for them. */
class Lane implements AsyncDisposable {
  #lab: Lab | undefined;

  static async open(inLab: boolean): Promise<Lane> {
    const lane = new Lane();
    if (inLab) lane.#lab = await bootLab();
    return lane;
  }

  /**
   * Runs a file. In the lab one that failed is run again, in another lab, and what failed is shown:
   * QEMU's multi-threaded TCG at times executes code that the kernel has just rewritten, and the
   * lab, or a guest with several CPUs, dies of a stray int3 (docs/lab.md). A fault of nodevmm's
   * own fails each time.
   */
  async run(file: TestFile, group: Group, env: NodeJS.ProcessEnv): Promise<FileResult> {
    for (let attempt = 1; ; attempt++) {
      const result = await runFile(file, group, env, this.#lab);
      const { failures } = result.tally;
      if (attempt > 1 && failures.length === 0) totals.addRetried(file.source, attempt);
      if (this.#lab === undefined || failures.length === 0 || attempt === LAB_ATTEMPTS) {
        return result;
      }
      const why = result.labLost ? 'the lab died' : failures.map(({ name }) => name).join('; ');
      console.log(`again   ${file.source}, in another lab: ${why}`);
      console.log(indent(result.output.slice(-4000)));
      await this.#lab.close();
      this.#lab = await bootLab();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lab?.close();
  }
}

/** What kills labs may kill one while it boots. */
async function bootLab(): Promise<Lab> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await Lab.boot(TEST_LAB);
    } catch (error) {
      if (attempt === LAB_ATTEMPTS || (error as { code?: string }).code !== 'E_LAB_GONE')
        throw error;
      console.log(`again   ${error instanceof Error ? error.message : error}`);
    }
  }
}

async function runGroup(group: Group, env: NodeJS.ProcessEnv): Promise<void> {
  const files = filesOf(group, filters);
  if (files.length === 0) return;
  const inLab = await needsLab(group, files);
  const queue: TestFile[] = inLab ? bundled(group, files) : [...files];
  // V8 counts slowly there, and what it counted would be of the bundles.
  const fileEnv = inLab ? { ...env, NODE_V8_COVERAGE: undefined } : env;
  const runLane = async (): Promise<void> => {
    await using lane = await Lane.open(inLab);
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      if (group.timeoutSeconds > 300) console.log(`run     ${file.source}`);
      report(await lane.run(file, group, fileEnv), group);
    }
  };
  const lanes = Math.min(files.length, inLab ? labLanes() : group.parallel);
  await Promise.all(Array.from({ length: lanes }, runLane));
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    endAll();
    process.exit(1);
  });
}

// `npm test --silent` would silence every npm that a test runs.
delete process.env.npm_config_loglevel;
const env: NodeJS.ProcessEnv = {
  ...(options['no-coverage'] ? {} : startCoverage()),
  ...(inCi ? { NODEVMM_REQUIRE_LAB: '1' } : {}),
};
for (const name of lostTests()) {
  fail(`${name}: tests only run from files named *.test.ts in a group's folder`);
}
for (const filter of filters) {
  if (GROUPS.every((group) => filesOf(group, [filter]).length === 0)) {
    fail(
      `no test matches ${filter}; name a group (${GROUPS.map(({ name }) => name).join(', ')}), a folder or a file`,
    );
  }
}
for (const group of GROUPS) await runGroup(group, env);
if (!options['no-coverage']) {
  const lines = reportCoverage();
  // Other hosts may lack what some tests need.
  const complete = filters.length === 0 && (inCi || options['raise-floor'] === true);
  if (lines === undefined) fail('coverage could not be reported');
  else if (complete) {
    const below = checkFloor(lines, options['raise-floor'] === true);
    if (below !== undefined) fail(below);
  }
}
if (inCi && totals.tooManyRetried !== undefined) fail(totals.tooManyRetried);
for (const line of totals.closing) console.log(line);
process.exitCode = totals.failed > 0 || totals.passed === 0 ? 1 : 0;
