/** `nodevmm bench`: nodevmm against its peers. Where KVM cannot run Linux, in the lab. */
import { accessSync, closeSync, constants, lstatSync } from 'node:fs';
import { dirname } from 'node:path';
import { CommanderError } from 'commander';
import { reportError } from '../src/cli/terminal/messages.ts';
import { UsageError } from '../src/host/errors.ts';
import { openOutputFile, writeOutputFile } from '../src/host/output-file.ts';
import { printable } from '../src/host/untrusted-text.ts';
import { compareCheckouts } from './against.ts';
import { GROUPS } from './groups/all.ts';
import { compareReports } from './harness/compare.ts';
import { type Document, documentOf } from './harness/document.ts';
import { renderPage, renderText } from './harness/render.ts';
import { type Report, readReport } from './harness/report.ts';
import { type BenchOptions, benchCommand } from './options.ts';
import { measure, stream } from './runs.ts';
import { summarize } from './summary.ts';

const DEFAULT_WIDTH = 120;

/** Some terminals report a width of 0. */
const print = (document: Document): void =>
  void process.stdout.write(
    printable(renderText(document, process.stdout.columns || DEFAULT_WIDTH)),
  );

/** @returns the exit status: 1 when something was lost or failed */
async function measureGroups(options: BenchOptions): Promise<number> {
  if (options.against !== undefined) {
    print(await compareCheckouts(options.against, options));
    return 0;
  }
  for (const path of [options.json, options.html]) checkWritable(path);
  const groups = GROUPS.filter(({ name }) => options.names.includes(name));
  if (options.stream) {
    await stream(groups, options);
    return 0;
  }
  let unsaved: unknown;
  const report = await measure(groups, options, (pooled) => {
    unsaved = save(pooled, options);
  });
  print(documentOf(report));
  if (unsaved !== undefined) return reportError(unsaved);
  const failed = report.sites.some(
    ({ omissions, results }) =>
      omissions.some(({ lost }) => lost === true) ||
      results.some(({ rows }) => rows.some(({ failure }) => failure !== undefined)),
  );
  return failed ? 1 : 0;
}

/** @returns what went wrong: minutes of measuring are still worth printing */
function save(report: Report, { json, html }: BenchOptions): unknown {
  const write = (path: string, text: string): void =>
    writeOutputFile('a report', path, 'E_REPORT', text);
  try {
    if (json !== undefined) write(json, `${JSON.stringify(report, null, 2)}\n`);
    if (html !== undefined) write(html, renderPage(documentOf(report)));
    return undefined;
  } catch (error) {
    return error;
  }
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
    throw new UsageError('E_REPORT', `cannot write ${path}: ${why}`, 'name a folder that exists');
  }
}

async function run(args: readonly string[]): Promise<number> {
  let status = 0;
  const command = benchCommand(args, GROUPS, async (options) => {
    status = await measureGroups(options);
  });
  command
    .command('compare')
    .description('what changed from one --json file to another, and whether by more than noise')
    .argument('<before.json>')
    .argument('<after.json>')
    .action((before: string, after: string) => {
      print(compareReports(readReport(before), readReport(after)));
    });
  command
    .command('summary')
    .description('what bench/results has, or --json files; --write keeps it and updates the docs')
    .argument('[report.json...]')
    .option('--write', 'into bench/results and docs/benchmarks.md of this checkout')
    .action((reports: string[], { write = false }: { write?: boolean }) => {
      process.stdout.write(summarize(reports, write));
    });
  try {
    await command.parseAsync([...args], { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    // --help has been printed.
    if (error.exitCode === 0) return 0;
    const text = error.message.replace(/^error: /, '').replace(/\s*\n\s*/g, ' ');
    throw new UsageError('E_OPTION', text, 'see nodevmm bench --help');
  }
  return status;
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
