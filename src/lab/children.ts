/** The lab's processes on the host: none outlives us, however we end. */

import { type ChildProcess, spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import { findProgram } from '../guest/programs.ts';
import { Closeable } from '../host/cleanup-stack.ts';
import { runtimeFolder } from '../host/private-folder.ts';
import { TemporaryFolder } from '../host/temporary-folder.ts';

const PREFIX = 'lab-booted-';
const SIGNALS: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP'];

const alive = new Set<Children>();

function closeAll(): void {
  for (const children of alive) children.close();
}

function onSignal(signal: NodeJS.Signals): void {
  // With other listeners the program decides for itself what a signal means.
  if (process.listenerCount(signal) > 1) return;
  closeAll();
  process.kill(process.pid, signal);
}

/** A program's first descriptor of those that it is given. */
export const FIRST_FD = 3;

/** What a program has that is started. */
export interface Having {
  /** Where it runs. Default: where we do. */
  readonly cwd?: string;
  /** Descriptors that it has from FIRST_FD on; they stay the caller's. */
  readonly fds?: readonly number[];
  /** The user that it runs as. Default: ours. */
  readonly uid?: number;
}

function withoutRights(uid: number): string[] {
  const ids = ['--reuid', String(uid), '--regid', String(uid), '--clear-groups'];
  return [...ids, '--no-new-privs', '--inh-caps', '-all', '--bounding-set', '-all'];
}

/** A folder for sockets or files, and the processes that use it. */
export class Children extends Closeable {
  readonly #folder: TemporaryFolder;
  readonly #children: ChildProcess[] = [];

  /** @param parent where its folder is, and only this user writes. Default: next to sockets */
  constructor(parent = runtimeFolder()) {
    super();
    TemporaryFolder.removeStale(PREFIX, parent);
    this.#folder = new TemporaryFolder(PREFIX, parent);
    if (alive.size === 0) {
      process.on('exit', closeAll);
      for (const signal of SIGNALS) process.on(signal, onSignal);
    }
    alive.add(this);
  }

  /** Only this user can enter it. */
  get folder(): string {
    return this.#folder.path;
  }

  /**
   * Starts a program that dies with this thread, even by SIGKILL (prctl(2), PR_SET_PDEATHSIG).
   * Its standard output and error are pipes.
   * @param having what it has; `uid` is the user that it runs as, with no rights but those of the
   *   files' modes
   */
  start(argv: readonly string[], { cwd, fds = [], uid }: Having = {}): ChildProcess {
    const setpriv = findProgram('setpriv') ?? 'setpriv';
    const user = uid === undefined ? [] : [...withoutRights(uid), setpriv];
    // Last: a change of user takes the signal back.
    const child = spawn(setpriv, [...user, '--pdeathsig', 'KILL', ...argv], {
      stdio: ['ignore', 'pipe', 'pipe', ...fds],
      cwd,
    });
    this.#children.push(child);
    return child;
  }

  /** Whether this process waits for them when it has nothing else to do. At first it does. */
  keepProcess(keep: boolean): void {
    const change = keep ? 'ref' : 'unref';
    for (const child of this.#children) {
      child[change]();
      for (const stream of [child.stdout, child.stderr]) (stream as Socket | null)?.[change]();
    }
  }

  close(): void {
    if (!alive.delete(this)) return;
    if (alive.size === 0) {
      process.removeListener('exit', closeAll);
      for (const signal of SIGNALS) process.removeListener(signal, onSignal);
    }
    for (const child of this.#children) child.kill('SIGKILL');
    this.#folder.close();
  }
}

/** A panic with its registers and its trace. */
const LINES = 60;
const CHARACTERS = 8192;

/** The last lines of a text that may be long. */
export function lastLinesOf(text: string): string[] {
  const lines = text.slice(-CHARACTERS).split(/\r?\n/);
  return lines
    .filter((line) => line.trim() !== '' && !line.includes("TCG doesn't support"))
    .slice(-LINES);
}

/** Keeps the end of a program's output and errors. @returns gives it */
export function lastLines(child: ChildProcess): () => string[] {
  let text = '';
  const take = (chunk: Buffer): void => {
    text = (text + chunk.toString('latin1')).slice(-CHARACTERS);
  };
  child.stdout?.on('data', take);
  child.stderr?.on('data', take);
  return () => lastLinesOf(text);
}
