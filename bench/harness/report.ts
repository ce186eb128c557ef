/** All results of a run, as `--json` writes them. */
import { readFileSync } from 'node:fs';
import { messageOf, UsageError } from '../../src/host/errors.ts';
import type { Host } from './host.ts';
import type { Result } from './measure.ts';

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
    const why = messageOf(error);
    throw new UsageError('E_REPORT', `cannot read ${path}: ${why}`);
  }
  if (report?.format !== FORMAT || !Array.isArray(report.sites)) {
    throw new UsageError(
      'E_REPORT',
      `${path} is no report of this version; make one with nodevmm bench --json ${path}`,
    );
  }
  return report as Report;
}
