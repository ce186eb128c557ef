/** `npm run bench`: nodevmm against its peers, in tables. Where KVM cannot run Linux, in the lab. */
import { existsSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { reportError } from '../src/cli/report-error.ts';
import { buildGuest } from '../src/guest/guests.ts';
import { UsageError } from '../src/host/errors.ts';
import { probeKvm } from '../src/kvm/probe.ts';
import { GROUPS } from './groups/all.ts';
import type { Group, GroupContext } from './groups/group.ts';
import { BENCH_PROGRAMS, runBenchProgram } from './groups/programs.ts';
import { describeHost } from './harness/host.ts';
import type { Result } from './harness/measure.ts';
import { markdownReport, type Report, terminalReport } from './harness/report.ts';
import { runInLab } from './in-lab.ts';
import { type BenchOptions, parseBenchOptions } from './options.ts';

const list = (entries: readonly { readonly name: string; readonly summary: string }[]): string =>
  entries.map(({ name, summary }) => `  ${name.padEnd(12)} ${summary}`).join('\n');

const HELP = `npm run bench -- [NAME...] [OPTION...]

Measures against QEMU (default: all of these; --only NAME,... does the same):
${list(GROUPS)}
Without guests, only when named:
${list(BENCH_PROGRAMS)}

Options:
  --rounds N       samples of each subject (default 5), after one that warms up
  --seconds N      length of a sample of throughput (default 5)
  --subjects TEXT  only nodevmm's rows whose names hold TEXT; again for more
  --folder DIR     where disks on a real file system lie (default: the temporary folder)
  --json FILE      the report with all samples, CPU by thread, and KVM's counters
  --markdown       tables for docs/benchmarks.md
  --profile        also show where time went: CPU by thread, KVM's exits
  --no-lab         never take the lab
`;

function progress(text: string): void {
  process.stderr.write(`bench: ${Math.round(performance.now() / 1000)} s: ${text}\n`);
}

/** Runs groups on this host. */
async function runHere(groups: readonly Group[], options: BenchOptions): Promise<Result[]> {
  const context: GroupContext = {
    rounds: options.rounds,
    seconds: options.seconds,
    folder: options.folder ?? tmpdir(),
    progress,
    selected: (name) =>
      options.subjects.length === 0 || options.subjects.some((text) => name.includes(text)),
    image: (name) => buildGuest(name, { onProgress: (step) => progress(step) }),
  };
  const results: Result[] = [];
  for (const group of groups) results.push(...(await group.run(context)));
  return results;
}

/** Why guests cannot be measured here; undefined when they can. */
function whyLab(): string | undefined {
  const { usable, detail } = probeKvm();
  return usable ? undefined : detail;
}

async function measure(groups: readonly Group[], options: BenchOptions): Promise<Report[]> {
  const { rounds, seconds, noLab } = options;
  const host = describeHost();
  const why = groups.some(({ guests }) => guests) ? whyLab() : undefined;
  const hasKvm = existsSync('/dev/kvm');
  const inLab = why === undefined ? [] : groups.filter(({ guests }) => guests || !hasKvm);
  if (why !== undefined && noLab) {
    throw new UsageError('E_KVM', `${why}; leave out --no-lab to measure in the lab`);
  }
  const here = groups.filter((group) => !inLab.includes(group));
  const reports: Report[] = [];
  if (here.length > 0) {
    reports.push({ host, rounds, seconds, results: await runHere(here, options) });
  }
  if (inLab.length > 0) {
    progress(`${why}; measuring in the lab, an emulated KVM host: compare ratios only`);
    // Made here, since the lab has no network.
    for (const name of ['minimal', 'tools'] as const) await buildGuest(name);
    const names = inLab.map(({ name }) => name);
    reports.push({ ...(await runInLab(names, options, progress)), labHost: host });
  }
  return reports;
}

function print(reports: readonly Report[], { json, markdown, profile }: BenchOptions): void {
  if (json === '-') {
    process.stdout.write(`${JSON.stringify(reports[0])}\n`);
    return;
  }
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(reports, null, 2)}\n`);
  for (const report of reports) {
    process.stdout.write(markdown ? markdownReport(report) : terminalReport(report, profile));
    process.stdout.write('\n');
  }
}

async function main(args: readonly string[]): Promise<number> {
  const known = [...GROUPS, ...BENCH_PROGRAMS].map(({ name }) => name);
  const options = parseBenchOptions(args, known);
  if (options.help) {
    process.stdout.write(HELP);
    return 0;
  }
  const wanted = (name: string): boolean => options.names.includes(name);
  const groups = options.names.length === 0 ? GROUPS : GROUPS.filter(({ name }) => wanted(name));
  if (groups.length > 0) print(await measure(groups, options), options);
  let status = 0;
  for (const program of BENCH_PROGRAMS.filter(({ name }) => wanted(name))) {
    status = (await runBenchProgram(program)) || status;
  }
  return status;
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  // What was started ends with this process.
  process.on(signal, () => process.exit(1));
}
try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.exitCode = reportError(error);
}
