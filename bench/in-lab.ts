/** Runs groups in the lab: each in its own lab, and again in another one when that dies. */
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { defer, type GuestProcess } from '../src/agent/command.ts';
import { PeerError } from '../src/host/errors.ts';
import { packageFolder } from '../src/host/package-folder.ts';
import { Lab } from '../src/lab/lab.ts';
import type { Host } from './harness/host.ts';
import type { Result } from './harness/measure.ts';
import { lossOf, type Omission, type Site } from './harness/report.ts';
import type { Progress } from './harness/rounds.ts';
import { argumentsOf, type BenchOptions } from './options.ts';

const PROGRAM = join(packageFolder, 'dist/bench/run.js');
const DISK_FOLDER = '/mnt/bench';
/** A real file system, on a disk of RAM: the lab's others are its host's. */
const MOUNT = `set -e
/run/nodevmm/busybox modprobe brd rd_nr=1 rd_size=1048576
mkfs.ext4 -q -F /dev/ram0
mkdir -p ${DISK_FOLDER}
mount -t ext4 /dev/ram0 ${DISK_FOLDER}`;
/** How often a group is measured at most: once, and twice more when the lab died. */
const ATTEMPTS = 3;
const LOST: readonly string[] = ['E_LAB_GONE', 'E_AGENT_GONE', 'E_LAB_SILENT'];
/** The longest silence of a living lab: it gives up on a guest that never comes up after 5 minutes. */
const PATIENCE_MS = 330_000;

/** What a run in the lab reports to the process outside: a JSON line each, so that they survive the lab. */
export type StreamEvent =
  | { readonly kind: 'host'; readonly host: Host }
  | { readonly kind: 'results'; readonly results: readonly Result[] }
  | { readonly kind: 'omission'; readonly omission: Omission }
  | { readonly kind: 'progress'; readonly text: string; readonly fraction?: number };

/** One line, with its end. NaN and infinities do not occur: samples are finite. */
export const encodeEvent = (event: StreamEvent): string => `${JSON.stringify(event)}\n`;

/** @returns undefined for a line that was lost with its sender */
function parseEvent(line: string): StreamEvent | undefined {
  try {
    return JSON.parse(line) as StreamEvent;
  } catch {
    return undefined;
  }
}

/** The parts of a lab that are used here. */
export interface BenchLab extends AsyncDisposable {
  /** Starts the program of bench/run.ts. */
  start(args: readonly string[]): GuestProcess;
}

/** The setup that a group was measured with. */
export interface LabRun {
  /** Boots a lab. */
  readonly boot: (progress: Progress) => Promise<BenchLab>;
  readonly progress: Progress;
  readonly options: BenchOptions;
  readonly labHost: Host;
  /** How long a lab may be silent before it counts as dead: its kernel can stop without a message. */
  readonly patienceMs?: number;
}

/**
 * Measures one group in the lab.
 * @returns the results, even when the lab died each time, or the program in it failed
 * @throws UsageError when this host cannot run a lab
 */
export async function measureInLab(group: string, run: LabRun): Promise<Site> {
  const { labHost } = run;
  const results: Result[] = [];
  const omissions: Omission[] = [];
  // Without one, no lab ever got to measuring.
  let host: Host = { ...labHost, emulated: true };
  const take = (event: StreamEvent): void => {
    if (event.kind === 'host') host = event.host;
    else if (event.kind === 'results') results.push(...event.results);
    else if (event.kind === 'progress') run.progress(event.text, event.fraction);
    else if (!omissions.some(({ what }) => what === event.omission.what)) {
      omissions.push(event.omission);
    }
  };
  for (let attempt = 1; ; attempt++) {
    try {
      await measureOnce(group, run, results, take);
      break;
    } catch (error) {
      if (!(error instanceof PeerError)) throw error;
      if (attempt === ATTEMPTS || !LOST.includes(error.code)) {
        omissions.push(lossOf(group, results, error));
        break;
      }
      const [why] = error.message.split('\n');
      run.progress(`${group}: again in another lab, for what is missing: ${why}`);
    }
  }
  return { host, labHost, results, omissions };
}

async function measureOnce(
  group: string,
  { boot, progress, options, patienceMs = PATIENCE_MS }: LabRun,
  before: readonly Result[],
  take: (event: StreamEvent) => void,
): Promise<void> {
  progress(`${group}: booting the lab`, 0);
  await using lab = await boot(progress);
  const command = lab.start([
    ...['--no-lab', '--stream', '--folder', DISK_FOLDER],
    ...argumentsOf(options),
    ...before.flatMap(({ measure }) => ['--measured', measure.name]),
    group,
  ]);
  const silent = defer<never>();
  const timer = setTimeout(() => {
    const why = `the lab said nothing for ${patienceMs / 1000} s`;
    silent.reject(new PeerError('E_LAB_SILENT', why));
  }, patienceMs);
  const lines = createInterface({ input: command.stdout });
  lines.on('line', (line) => {
    timer.refresh();
    const event = parseEvent(line);
    if (event !== undefined) take(event);
  });
  let said = '';
  command.stderr.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-2000);
  });
  const read = once(lines, 'close');
  const ended = command.exit.finally(() => read);
  // A silent lab is closed, and its command ends with it.
  ended.catch(() => {});
  try {
    const { exitCode } = await Promise.race([ended, silent.promise]);
    if (exitCode === 0) return;
    const why = `the benchmark in the lab ended with status ${exitCode}: ${said.trim()}`;
    throw new PeerError('E_BENCH', why);
  } finally {
    clearTimeout(timer);
  }
}

/** Boots a lab that has a folder on a real file system. */
export async function bootBenchLab(progress: Progress): Promise<BenchLab> {
  const lab = await Lab.boot({ onProgress: (step) => progress(step, 0) });
  const mounted = await lab.exec(['sh', '-c', MOUNT]);
  if (mounted.exitCode !== 0) {
    await lab.close();
    const why = mounted.stderr.toString().trim();
    throw new PeerError('E_BENCH', `no file system in the lab: ${why}`);
  }
  return {
    start: (args) => lab.spawn([process.execPath, PROGRAM, ...args]),
    [Symbol.asyncDispose]: () => lab.close(),
  };
}
