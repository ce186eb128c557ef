/** Runs one compiled test file in a process of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Group, TestFile } from './plan.ts';
import { Tally } from './tally.ts';

/** What came of one file. */
export interface FileResult {
  readonly file: TestFile;
  readonly tally: Tally;
  readonly seconds: number;
  /** Everything that the file wrote, the end of it when it was much. */
  readonly output: string;
}

const OUTPUT_LIMIT = 1_000_000;
/** How long processes that a test started may take to go once it has ended. */
const LINGER_MS = 3000;

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
    if (Date.now() > deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return true;
}

/**
 * Runs a file to its end, or to the group's time limit.
 * @param env added to the environment of this process
 */
export async function runFile(
  file: TestFile,
  group: Group,
  env: NodeJS.ProcessEnv,
): Promise<FileResult> {
  const started = Date.now();
  const tally = new Tally();
  let output = '';
  const child = spawn(process.execPath, ['--enable-source-maps', file.compiled], {
    stdio: ['ignore', 'pipe', 'pipe'],
    // A process group of its own, so that a hung file takes its children with it.
    detached: true,
    // tap has a limit of its own, 30 s unless told otherwise.
    env: { ...process.env, TAP_TIMEOUT: String(group.timeoutSeconds), ...env },
  });
  running.add(child);
  const keep = (text: string): void => {
    output = (output + text).slice(-OUTPUT_LIMIT);
  };
  child.stderr.setEncoding('utf8').on('data', keep);
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    keep(text);
    tally.write(text);
  });
  let timedOut = false;
  const timer = setTimeout(
    () => {
      timedOut = true;
      signalGroup(child, 'SIGKILL');
    },
    (group.timeoutSeconds + 5) * 1000,
  );
  const closed = new Promise<void>((resolve) => child.on('close', () => resolve()));
  const ended = await new Promise<string>((resolve) => {
    child.on('error', (error) => resolve(error.message));
    child.on('exit', (status, signal) => resolve(signal ?? `status ${status}`));
  });
  clearTimeout(timer);
  if (!(await groupIsGone(child))) {
    tally.fail('clean end', 'left processes running');
    signalGroup(child, 'SIGKILL');
  }
  await closed;
  running.delete(child);
  await tally.end();
  if (timedOut) tally.fail('time limit', `still running after ${group.timeoutSeconds} s`);
  else if (ended.startsWith('SIG') || (ended !== 'status 0' && tally.failures.length === 0)) {
    tally.fail('clean end', `the file ended with ${ended}`);
  }
  return { file, tally, seconds: (Date.now() - started) / 1000, output };
}
