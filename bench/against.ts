/** Two checkouts in turns, each in its own processes: the only difference between them is the code. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { PeerError, UsageError } from '../src/host/errors.ts';
import { packageFolder } from '../src/host/package-folder.ts';
import { TemporaryFolder } from '../src/host/temporary-folder.ts';
import { compareReports } from './harness/compare.ts';
import type { Document } from './harness/document.ts';
import { poolReports, type Report, readReport } from './harness/report.ts';
import { argumentsOf, type BenchOptions } from './options.ts';

/** @returns the comparison: the other checkout is A, this one B */
export async function compareCheckouts(other: string, options: BenchOptions): Promise<Document> {
  using folder = new TemporaryFolder('nodevmm-bench-');
  const json = join(folder.path, 'report.json');
  const measure = async (checkout: string): Promise<Report> => {
    const program = join(checkout, 'dist/bench/run.js');
    if (!existsSync(program)) {
      throw new UsageError('E_AGAINST', `no ${program}`, 'build that checkout with npm run build');
    }
    const args = [program, ...options.names, ...argumentsOf(options), '--json', json];
    if (!options.lab) args.push('--no-lab');
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'inherit'] });
    const [status] = (await once(child, 'close')) as [number | null];
    if (status !== 0) throw new PeerError('E_AGAINST', `${program} ended with status ${status}`);
    return readReport(json);
  };
  const checkouts = [resolve(other), packageFolder];
  const reports = new Map<string, Report[]>(checkouts.map((one) => [one, []]));
  for (let run = 0; run < options.repeat; run++) {
    for (const one of run % 2 === 0 ? checkouts : checkouts.toReversed()) {
      reports.get(one)?.push(await measure(one));
    }
  }
  const [before, after] = checkouts.map((one) =>
    poolReports(reports.get(one) as [Report, ...Report[]]),
  ) as [Report, Report];
  return compareReports(before, after);
}
