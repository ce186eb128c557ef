/** The lab's processes on the host: none outlives us, however we end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const PREFIX = 'nodevmm-lab-';
const SIGNALS: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP'];

const alive = new Set<Children>();

function disposeAll(): void {
  for (const children of alive) children[Symbol.dispose]();
}

function onSignal(signal: NodeJS.Signals): void {
  // With other listeners the program decides for itself what a signal means.
  if (process.listenerCount(signal) > 1) return;
  disposeAll();
  process.kill(process.pid, signal);
}

/** A folder for sockets, and the processes that use it. */
export class Children implements Disposable {
  readonly folder: string;
  readonly #children: ChildProcess[] = [];

  constructor() {
    removeStale();
    // Sockets: their paths may take 108 bytes at most (unix(7)).
    this.folder = mkdtempSync(join(tmpdir(), `${PREFIX}${process.pid}-`));
    if (alive.size === 0) {
      process.on('exit', disposeAll);
      for (const signal of SIGNALS) process.on(signal, onSignal);
    }
    alive.add(this);
  }

  /**
   * Starts a program that dies with this thread, even by SIGKILL (prctl(2), PR_SET_PDEATHSIG).
   * Its standard output and error are pipes.
   */
  start(argv: readonly string[]): ChildProcess {
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...argv], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#children.push(child);
    return child;
  }

  [Symbol.dispose](): void {
    if (!alive.delete(this)) return;
    if (alive.size === 0) {
      process.removeListener('exit', disposeAll);
      for (const signal of SIGNALS) process.removeListener(signal, onSignal);
    }
    for (const child of this.#children) child.kill('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Folders of processes that were killed. */
function removeStale(): void {
  for (const name of readdirSync(tmpdir())) {
    const pid = Number(new RegExp(`^${PREFIX}(\\d+)-`).exec(name)?.[1]);
    if (Number.isNaN(pid) || isAlive(pid)) continue;
    rmSync(join(tmpdir(), name), { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
