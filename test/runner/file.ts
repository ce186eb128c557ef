/** Runs one compiled test file, on this host or in the lab. */
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { NodeVmmError } from '../../src/host/errors.ts';
import type { Lab } from '../../src/lab/lab.ts';
import type { Group, TestFile } from './plan.ts';
import { Tally } from './tally.ts';

/** What came of one file. */
export interface FileResult {
  readonly file: TestFile;
  readonly tally: Tally;
  readonly seconds: number;
  /** Everything that the file wrote, the end of it when it was much. */
  readonly output: string;
  /** The lab died under it. */
  readonly labLost: boolean;
}

/** A test file that is running somewhere. */
interface Running {
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** Resolves with `status N`, a signal's name or LAB_LOST once it ended. */
  readonly ended: Promise<string>;
  kill(): void;
  /** Resolves with false when processes that it started are left. */
  gone(): Promise<boolean>;
}

const OUTPUT_LIMIT = 1_000_000;
/** How long processes that a test started may take to go once it has ended. */
const LINGER_MS = 3000;
const NODE_ARGUMENTS = ['--enable-source-maps'];

const LAB_LOST = 'the lab died';

const running = new Set<ChildProcess>();

function signalGroup(child: ChildProcess, signal: NodeJS.Signals | 0): boolean {
  if (child.pid === undefined) return false;
  try {
    return process.kill(-child.pid, signal);
  } catch {
    return false;
  }
}

/** Ends all test files that are running, with what they started. */
export function endAll(): void {
  for (const child of running) signalGroup(child, 'SIGKILL');
}

/** True when nothing of the file's process group is left within a short time. */
async function groupIsGone(child: ChildProcess): Promise<boolean> {
  const deadline = Date.now() + LINGER_MS;
  while (signalGroup(child, 0)) {
    if (Date.now() > deadline) {
      signalGroup(child, 'SIGKILL');
      return false;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return true;
}

function startHere(file: TestFile, env: NodeJS.ProcessEnv): Running {
  const child = spawn(process.execPath, [...NODE_ARGUMENTS, file.compiled], {
    stdio: ['ignore', 'pipe', 'pipe'],
    // A process group of its own, so that a hung file takes its children with it.
    detached: true,
    env: { ...process.env, ...env },
  });
  running.add(child);
  child.on('close', () => running.delete(child));
  const ended = new Promise<string>((resolve) => {
    child.on('error', (error) => resolve(error.message));
    child.on('exit', (status, signal) => resolve(signal ?? `status ${status}`));
  });
  return {
    stdout: child.stdout,
    stderr: child.stderr,
    ended,
    kill: () => void signalGroup(child, 'SIGKILL'),
    gone: () => groupIsGone(child),
  };
}

function startInLab(lab: Lab, file: TestFile, env: NodeJS.ProcessEnv): Running {
  const argv = [process.execPath, ...NODE_ARGUMENTS, path.resolve(file.compiled)];
  const strings = Object.entries(env).filter((entry): entry is [string, string] => !!entry[1]);
  const child = lab.spawn(argv, { env: Object.fromEntries(strings) });
  child.stdin.end();
  const ended = child.exit.then(
    ({ exitCode, signal }) => signal ?? `status ${exitCode}`,
    (error: unknown) => {
      if (!(error instanceof NodeVmmError) || error.code !== 'E_LAB_GONE') return String(error);
      process.stderr.write(`${error.message}\n`);
      return LAB_LOST;
    },
  );
  return {
    stdout: child.stdout,
    stderr: child.stderr,
    ended,
    kill: () => child.kill('SIGKILL'),
    // The lab ends with the run, and whatever was left in it.
    gone: async () => true,
  };
}

/**
 * Runs a file to its end, or to the group's time limit.
 * @param env added to the environment
 * @param lab where to run it; undefined for this host
 */
export async function runFile(
  file: TestFile,
  group: Group,
  env: NodeJS.ProcessEnv,
  lab?: Lab,
): Promise<FileResult> {
  const started = Date.now();
  const tally = new Tally();
  let output = '';
  // tap has a limit of its own, by default 30 s.
  const environment = { TAP_TIMEOUT: String(group.timeoutSeconds), ...env };
  const child =
    lab === undefined ? startHere(file, environment) : startInLab(lab, file, environment);
  let hung: string | undefined;
  const limit = (seconds: number, what: string): NodeJS.Timeout =>
    setTimeout(() => {
      hung = `${what} for ${seconds} s`;
      child.kill();
    }, seconds * 1000);
  const timer = limit(group.timeoutSeconds + 5, 'running');
  const { silenceSeconds } = group;
  const silence = silenceSeconds === undefined ? undefined : limit(silenceSeconds, 'silent');
  const keep = (text: string): void => {
    silence?.refresh();
    output = (output + text).slice(-OUTPUT_LIMIT);
  };
  const closed = Promise.all([closeOf(child.stdout), closeOf(child.stderr)]);
  child.stderr.setEncoding('utf8').on('data', keep);
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    keep(text);
    tally.write(text);
  });
  const ended = await child.ended;
  clearTimeout(timer);
  clearTimeout(silence);
  if (!(await child.gone())) tally.fail('clean end', 'left processes running');
  await closed;
  await tally.end();
  if (hung !== undefined) tally.fail('time limit', hung);
  else if (ended.startsWith('SIG') || (ended !== 'status 0' && tally.failures.length === 0)) {
    tally.fail('clean end', `the file ended with ${ended}`);
  }
  const seconds = (Date.now() - started) / 1000;
  return { file, tally, seconds, output, labLost: ended === LAB_LOST };
}

function closeOf(stream: Readable): Promise<void> {
  return new Promise((resolve) => {
    stream.on('close', () => resolve());
  });
}
