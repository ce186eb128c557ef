/** Coverage of src/ from what V8 counted in the test processes, and its floor. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

const FOLDER = 'coverage';
const RAW = path.join(FOLDER, 'v8');
const FLOOR = 'test/coverage-floor.json';
/** Whole guests take slightly different ways each time. */
const SLACK_PERCENT = 0.5;

/** Empties the folder of earlier runs. @returns what test processes need in their environment */
export function startCoverage(): NodeJS.ProcessEnv {
  rmSync(FOLDER, { recursive: true, force: true });
  return { NODE_V8_COVERAGE: path.resolve(RAW) };
}

/** Writes the reports. @returns lines covered in percent, undefined when that failed */
export function reportCoverage(): number | undefined {
  if (!existsSync(RAW)) return undefined;
  const c8 = createRequire(import.meta.url).resolve('c8/bin/c8.js');
  const reporters = ['text-summary', 'json-summary', 'html'].flatMap((name) => ['-r', name]);
  const folders = ['--temp-directory', RAW, '--reports-dir', FOLDER];
  const files = ['--exclude-after-remap', '--include', 'src/**'];
  const run = spawnSync(process.execPath, [c8, 'report', ...folders, ...reporters, ...files], {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const summary = path.join(FOLDER, 'coverage-summary.json');
  rmSync(RAW, { recursive: true, force: true });
  if (run.status !== 0 || !existsSync(summary)) return undefined;
  const parsed = JSON.parse(readFileSync(summary, 'utf8')) as {
    total: { lines: { pct: number | 'Unknown' } };
  };
  const { pct } = parsed.total.lines;
  return pct === 'Unknown' ? 0 : pct;
}

/**
 * Compares with the floor, in percent of lines.
 * @param raise lift the floor to this run's figure when that is higher
 * @returns a sentence when the run is below the floor
 */
export function checkFloor(lines: number, raise: boolean): string | undefined {
  const floor = (JSON.parse(readFileSync(FLOOR, 'utf8')) as { lines: number }).lines;
  if (raise && lines > floor) {
    writeFileSync(FLOOR, `${JSON.stringify({ lines: Math.floor(lines * 10) / 10 }, null, 2)}\n`);
  }
  if (lines >= floor - SLACK_PERCENT) return undefined;
  return `${lines} % of the lines are covered, the floor is ${floor} % (${FLOOR})`;
}
