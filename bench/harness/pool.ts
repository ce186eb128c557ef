/** Pools several runs in one report: the differences between boots are then in its spread. */
import { type Result, type Row, runsOf } from './measure.ts';
import type { Omission, Report, Site } from './report.ts';

/**
 * Pools runs that had the same options.
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
  return { ...last, runs, sites: sites.filter((site) => site !== undefined) };
}

function poolSites(runs: readonly (Site | undefined)[]): Site | undefined {
  const first = runs.find((site) => site !== undefined);
  if (first === undefined) return undefined;
  const results = new Map<string, (Result | undefined)[]>();
  const omissions = new Map<string, Omission>();
  for (const [run, site] of runs.entries()) {
    for (const result of site?.results ?? []) {
      const key = `${result.group}: ${result.measure.name}`;
      const all = results.get(key) ?? runs.map(() => undefined);
      all[run] = result;
      results.set(key, all);
    }
    for (const omission of site?.omissions ?? []) {
      const key = JSON.stringify(omission);
      if (!omissions.has(key)) omissions.set(key, omission);
    }
  }
  return {
    ...first,
    results: [...results.values()].flatMap(poolResults),
    omissions: [...omissions.values()],
  };
}

function poolResults(runs: readonly (Result | undefined)[]): Result[] {
  const first = runs.find((result) => result !== undefined);
  if (first === undefined) return [];
  const subjects = new Set(runs.flatMap((run) => run?.rows.map(({ subject }) => subject) ?? []));
  const rows = [...subjects].flatMap((subject) =>
    poolRows(runs.map((run) => run?.rows.find((row) => row.subject === subject))),
  );
  return [{ ...first, rows }];
}

function poolRows(runs: readonly (Row | undefined)[]): Row[] {
  const first = runs.find((row) => row !== undefined);
  if (first === undefined) return [];
  const { subject, reference, peer } = first;
  const usage = runs.findLast((row) => row?.usage !== undefined)?.usage;
  const failure = told(runs.map((row) => row?.failure));
  const remark = told(runs.map((row) => row?.remark));
  return [
    {
      ...{ subject, reference },
      samples: runs.flatMap((row) => row?.samples ?? []),
      runs: runs.flatMap((row) => (row === undefined ? [0] : runsOf(row))),
      ...(peer === undefined ? {} : { peer }),
      ...(usage === undefined ? {} : { usage }),
      ...(failure === undefined ? {} : { failure }),
      ...(remark === undefined ? {} : { remark }),
    },
  ];
}

/** The notes, and the runs they came from. */
function told(texts: readonly (string | undefined)[]): string | undefined {
  const lines = texts.flatMap((text, run) =>
    text === undefined ? [] : [`run ${run + 1}: ${text}`],
  );
  return lines.length === 0 ? undefined : lines.join('; ');
}
