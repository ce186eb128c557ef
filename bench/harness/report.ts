/** All results of a run, as `--json` writes them, and several runs pooled in one. */
import { readFileSync } from 'node:fs';
import { messageOf, UsageError } from '../../src/host/errors.ts';
import type { Host } from './host.ts';
import { type Result, type Row, runsOf } from './measure.ts';

const FORMAT = 'nodevmm-bench/1';

/** Something that was not measured. */
export interface Omission {
  readonly group: string;
  /** A row's name, or what was lost. */
  readonly what: string;
  readonly why: string;
  /** It was requested and could not be measured: the command fails. */
  readonly lost?: boolean;
}

/** Marks what an error kept from being measured. @param results of before the error */
export function lossOf(group: string, results: readonly Result[], error: unknown): Omission {
  const some = results.some((result) => result.group === group);
  const what = some ? 'all that is not shown' : 'everything';
  return { group, what, why: messageOf(error), lost: true };
}

/** The results from one place. */
export interface Site {
  readonly host: Host;
  /** The host that carries the lab, when this is one. */
  readonly labHost?: Host;
  readonly results: readonly Result[];
  readonly omissions: readonly Omission[];
}

/** A whole run. */
export interface Report {
  readonly format: typeof FORMAT;
  /** nodevmm's version. */
  readonly version: string;
  /** ISO 8601, when it ended. */
  readonly date: string;
  /** As typed. */
  readonly command: string;
  readonly rounds: number;
  readonly seconds: number;
  /** How many runs are pooled in it; absent: 1. */
  readonly runs?: number;
  readonly sites: readonly Site[];
}

/** A report as of now. */
export function reportOf(
  version: string,
  { command, rounds, seconds }: Pick<Report, 'command' | 'rounds' | 'seconds'>,
  sites: readonly Site[],
): Report {
  const date = new Date().toISOString();
  return { format: FORMAT, version, date, command, rounds, seconds, sites };
}

/** True when some of its results come from an emulated CPU. */
export function isEmulated({ sites }: Report): boolean {
  return sites.some(({ host }) => host.emulated);
}

/** Parses the output of `--json`. @throws UsageError when it is something else */
export function readReport(path: string): Report {
  let report: Partial<Report> | null;
  try {
    report = JSON.parse(readFileSync(path, 'utf8')) as Partial<Report> | null;
  } catch (error) {
    throw new UsageError('E_REPORT', `cannot read ${path}: ${messageOf(error)}`);
  }
  if (report?.format !== FORMAT || !Array.isArray(report.sites)) {
    throw new UsageError(
      'E_REPORT',
      `${path} is no report of this version`,
      `make one with nodevmm bench --json ${path}`,
    );
  }
  return report as Report;
}

/**
 * Pools runs that had the same options: the differences between boots are then in the spread.
 * @param reports at least one
 */
export function poolReports(reports: readonly [Report, ...Report[]]): Report {
  const last = reports.at(-1) ?? reports[0];
  if (reports.length === 1) return last;
  const places = Math.max(...reports.map(({ sites }) => sites.length));
  const sites = Array.from({ length: places }, (_, place) =>
    poolSites(reports.map(({ sites }) => sites[place])),
  );
  const runs = reports.reduce((sum, report) => sum + (report.runs ?? 1), 0);
  return { ...last, runs, sites: sites.flat() };
}

function poolSites(runs: readonly (Site | undefined)[]): Site[] {
  const results = pool(
    runs.map((site) => site?.results ?? []),
    ({ group, measure }) => `${group}: ${measure.name}`,
    (first, all) => ({
      ...first,
      rows: pool(
        all.map((result) => result?.rows ?? []),
        ({ subject }) => subject,
        poolRows,
      ),
    }),
  );
  const omissions = pool(
    runs.map((site) => site?.omissions ?? []),
    (omission) => JSON.stringify(omission),
    (omission) => omission,
  );
  const first = runs.find((site) => site !== undefined);
  return first === undefined ? [] : [{ ...first, results, omissions }];
}

/** Makes one thing of those with one key; runs that lack it have undefined instead. */
function pool<T>(
  runs: readonly (readonly T[])[],
  keyOf: (one: T) => string,
  join: (first: T, all: readonly (T | undefined)[]) => T,
): T[] {
  const keys = new Set(runs.flatMap((run) => run.map(keyOf)));
  return [...keys].flatMap((key) => {
    const all = runs.map((run) => run.find((one) => keyOf(one) === key));
    const first = all.find((one) => one !== undefined);
    return first === undefined ? [] : [join(first, all)];
  });
}

function poolRows(first: Row, all: readonly (Row | undefined)[]): Row {
  const failure = noted(all.map((row) => row?.failure));
  const remark = noted(all.map((row) => row?.remark));
  return {
    ...first,
    samples: all.flatMap((row) => row?.samples ?? []),
    runs: all.flatMap((row) => (row === undefined ? [0] : runsOf(row))),
    ...(failure === '' ? {} : { failure }),
    ...(remark === '' ? {} : { remark }),
  };
}

/** The notes, and the runs they came from. */
const noted = (texts: readonly (string | undefined)[]): string =>
  texts.flatMap((text, run) => (text === undefined ? [] : [`run ${run + 1}: ${text}`])).join('; ');
