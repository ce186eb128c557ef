/** `nodevmm bench`: nodevmm against its peers. Where KVM cannot run Linux, in the lab. */
import { accessSync, closeSync, constants, existsSync, lstatSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { reportError } from '../src/cli/terminal/messages.ts';
import { buildGuest } from '../src/guest/guests.ts';
import { UsageError } from '../src/host/errors.ts';
import { openOutputFile, writeOutputFile } from '../src/host/output-file.ts';
import { printable } from '../src/host/untrusted-text.ts';
import { probeKvm } from '../src/kvm/probe.ts';
import { compareCheckouts } from './against.ts';
import { GROUPS } from './groups/all.ts';
import type { Group } from './groups/group.ts';
import { compareReports } from './harness/compare.ts';
import { describeHost } from './harness/host.ts';
import { markdownReport } from './harness/markdown.ts';
import type { Result } from './harness/measure.ts';
import { poolReports } from './harness/pool.ts';
import { BenchProgress } from './harness/progress.ts';
import {
  lossOf,
  type Omission,
  type Report,
  readReport,
  reportOf,
  type Site,
} from './harness/report.ts';
import { encodeEvent, type StreamEvent } from './harness/stream.ts';
import { terminalReport } from './harness/terminal.ts';
import { runHere } from './here.ts';
import { bootBenchLab, measureInLab } from './in-lab.ts';
import { type BenchOptions, parseRequest } from './options.ts';
import { htmlReport } from './page/page.ts';
import { summarize } from './summary.ts';

const DEFAULT_WIDTH = 120;

/** The width of the user's terminal; some report 0. */
const terminalWidth = (): number => process.stdout.columns || DEFAULT_WIDTH;

function version(): string {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}

/** Why guests cannot be measured here; undefined when they can. */
function whyLab(groups: readonly Group[]): string | undefined {
  if (!groups.some(({ guests }) => guests)) return undefined;
  const { usable, detail } = probeKvm();
  return usable ? undefined : detail;
}

/** Reports results to the process outside the lab. */
async function stream(groups: readonly Group[], options: BenchOptions): Promise<void> {
  const send = (event: StreamEvent): void => void process.stdout.write(encodeEvent(event));
  send({ kind: 'host', host: describeHost() });
  for (const group of groups) {
    await runHere(group, options, {
      progress: (text, fraction) =>
        send({ kind: 'progress', text, ...(fraction === undefined ? {} : { fraction }) }),
      report: (results) => send({ kind: 'results', results }),
      omit: (omission) => send({ kind: 'omission', omission }),
    });
  }
}

/** Measures on this host. */
async function measureHere(
  groups: readonly Group[],
  options: BenchOptions,
  progress: BenchProgress,
): Promise<Site> {
  const host = describeHost();
  const results: Result[] = [];
  const omissions: Omission[] = [];
  for (const group of groups) {
    try {
      await runHere(group, options, {
        progress: (text, fraction) => progress.tell(text, fraction),
        report: (more) => void results.push(...more),
        omit: (omission) => void omissions.push(omission),
      });
    } catch (error) {
      // What was measured before is worth keeping.
      omissions.push(lossOf(group.name, results, error));
    }
    progress.next();
  }
  return { host, results, omissions };
}

/** Makes the images of groups, since the lab has no network. */
async function prepareImages(
  groups: readonly Group[],
  options: BenchOptions,
  progress: BenchProgress,
): Promise<void> {
  for (const group of groups) {
    for (const { name, kernel } of group.images(options)) {
      const onProgress = (step: string): void => progress.tell(step, 0);
      try {
        await buildGuest(name, { onProgress, ...(kernel === undefined ? {} : { kernel }) });
      } catch (error) {
        // The rows that need this kernel will report why they have none.
        if (kernel === undefined) throw error;
        progress.tell(`${group.name}: no guest with kernel ${kernel}: ${String(error)}`);
      }
    }
  }
}

/** What was measured, and why the requested files do not contain it, if they do not. */
interface Measured {
  readonly report: Report;
  readonly unsaved: unknown;
}

/** Measures as often as requested. Results are written after each run: the rest may be interrupted. */
async function measure(groups: readonly Group[], options: BenchOptions): Promise<Measured> {
  const { repeat } = options;
  using progress = new BenchProgress(groups.length * repeat);
  const first = await measureOnce(groups, options, progress);
  const reports: [Report, ...Report[]] = [first];
  let pooled = first;
  let unsaved = save(pooled, options);
  while (reports.length < repeat) {
    progress.tell(`run ${reports.length + 1} of ${repeat}`);
    reports.push(await measureOnce(groups, options, progress));
    pooled = poolReports(reports);
    unsaved = save(pooled, options);
  }
  return { report: pooled, unsaved };
}

async function measureOnce(
  groups: readonly Group[],
  options: BenchOptions,
  progress: BenchProgress,
): Promise<Report> {
  const why = whyLab(groups);
  const hasKvm = existsSync('/dev/kvm');
  const inLab = why === undefined ? [] : groups.filter(({ guests }) => guests || !hasKvm);
  if (why !== undefined && !options.lab) {
    throw new UsageError('E_KVM', `${why}; leave out --no-lab to measure in the lab`);
  }
  const labHost = describeHost();
  const here = groups.filter((group) => !inLab.includes(group));
  const sites: Site[] = [];
  if (here.length > 0) sites.push(await measureHere(here, options, progress));
  if (why !== undefined) {
    progress.tell(`${why}; measuring in the lab, an emulated KVM host: compare ratios only`);
    await prepareImages(inLab, options, progress);
  }
  const labs: Site[] = [];
  for (const { name } of inLab) {
    const run = {
      ...{ options, labHost, boot: bootBenchLab },
      progress: (text: string, fraction?: number) => progress.tell(text, fraction),
    };
    labs.push(await measureInLab(name, run));
    progress.next();
  }
  const [first] = labs;
  if (first !== undefined) {
    sites.push({
      ...first,
      results: labs.flatMap(({ results }) => results),
      omissions: labs.flatMap(({ omissions }) => omissions),
    });
  }
  return reportOf(version(), options, sites);
}

/** @returns what went wrong: minutes of measuring are still worth printing */
function save(report: Report, { json, html }: BenchOptions): unknown {
  const write = (path: string, text: string): void =>
    writeOutputFile('a report', path, 'E_REPORT', text);
  try {
    if (json !== undefined) write(json, `${JSON.stringify(report, null, 2)}\n`);
    if (html !== undefined) write(html, htmlReport(report));
    return undefined;
  } catch (error) {
    return error;
  }
}

/** @returns the exit status: 1 when something was lost or failed */
function publish(report: Report, options: BenchOptions): number {
  const { markdown, profile } = options;
  const text = markdown
    ? markdownReport(report)
    : terminalReport(report, { profile, width: terminalWidth() });
  process.stdout.write(`${text}\n`);
  const lost = report.sites.some(({ omissions }) => omissions.some(({ lost }) => lost === true));
  const rows = report.sites.flatMap(({ results }) => results.flatMap((result) => result.rows));
  return lost || rows.some(({ failure }) => failure !== undefined) ? 1 : 0;
}

/** Checked before minutes are spent on it. @throws UsageError when a report cannot be written there */
function checkWritable(path: string | undefined): void {
  if (path === undefined) return;
  if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) {
    closeSync(openOutputFile('a report', path, 'E_REPORT', true));
    return;
  }
  try {
    accessSync(dirname(path), constants.W_OK);
  } catch (error) {
    const why = (error as NodeJS.ErrnoException).code;
    throw new UsageError('E_REPORT', `cannot write ${path}: ${why}; name a folder that exists`);
  }
}

async function run(args: readonly string[]): Promise<number> {
  const byDefault = GROUPS.filter(({ named }) => named !== true);
  const others = GROUPS.filter(({ named }) => named === true);
  const request = parseRequest(args, byDefault, others);
  if (request.kind === 'help') return 0;
  if (request.kind === 'compare') {
    const [before, after] = [readReport(request.before), readReport(request.after)];
    process.stdout.write(`${printable(compareReports(before, after))}\n`);
    return 0;
  }
  if (request.kind === 'summary') {
    process.stdout.write(summarize(request.reports, request.write));
    return 0;
  }
  const { options } = request;
  if (options.against !== undefined) {
    const text = await compareCheckouts(options.against, options);
    process.stdout.write(`${printable(text)}\n`);
    return 0;
  }
  for (const path of [options.json, options.html]) checkWritable(path);
  const wanted = (name: string): boolean => options.names.includes(name);
  const groups = options.names.length === 0 ? byDefault : GROUPS.filter(({ name }) => wanted(name));
  if (options.stream) {
    await stream(groups, options);
    return 0;
  }
  const { report, unsaved } = await measure(groups, options);
  const status = publish(report, options);
  return unsaved === undefined ? status : reportError(unsaved);
}

/**
 * Runs a command line; errors go to standard error.
 * @returns the exit status
 */
export async function bench(args: readonly string[]): Promise<number> {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    // The processes that were started end with this one.
    process.on(signal, () => process.exit(1));
  }
  try {
    return await run(args);
  } catch (error) {
    return reportError(error);
  }
}
