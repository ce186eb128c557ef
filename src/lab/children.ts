/** The lab's processes on the host: none outlives us, however we end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const PREFIX = 'nodevmm-lab-';

/** A folder for sockets, and the processes that use it. */
export class Children implements Disposable {
  readonly folder: string;
  readonly #children: ChildProcess[] = [];
  readonly #onExit = (): void => this[Symbol.dispose]();
  readonly #onSignal = (signal: NodeJS.Signals): void => {
    this[Symbol.dispose]();
    // With other listeners the program decides for itself what a signal means.
    if (process.listenerCount(signal) === 0) process.kill(process.pid, signal);
  };

  constructor() {
    removeStale();
    // Sockets: their paths may take 108 bytes at most (unix(7)).
    this.folder = mkdtempSync(join(tmpdir(), `${PREFIX}${process.pid}-`));
    process.on('exit', this.#onExit);
    for (const signal of signals) process.on(signal, this.#onSignal);
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
    process.removeListener('exit', this.#onExit);
    for (const signal of signals) process.removeListener(signal, this.#onSignal);
    for (const child of this.#children) child.kill('SIGKILL');
    rmSync(this.folder, { recursive: true, force: true });
  }
}

const signals: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP'];

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
