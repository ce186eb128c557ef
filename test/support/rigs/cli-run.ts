/** A run of the program, and what it leaves behind. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { RawFile } from '../../../src/backend/raw-file.ts';

/** Holds the terminal's other side open, passes SIGTERM on, and ends with the run's status. */
const HOLDER = `
import os, signal, subprocess, sys
master, slave = os.openpty()
run = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=slave)
signal.signal(signal.SIGTERM, lambda *_: run.send_signal(signal.SIGTERM))
sys.exit(run.wait() % 256)
`;

/** The program, for kernels of a few bytes. */
export const PROGRAM = fileURLToPath(new URL('cli-any-kvm.js', import.meta.url));

/** The user's own folder for sockets, which stays. */
const SOCKETS = 'nodevmm';

/** How a run ended. */
export interface CliResult {
  readonly status: number | NodeJS.Signals;
  readonly stdout: string;
  readonly stderr: string;
}

/** A run in progress, with a temporary folder and a process group of its own. */
export class CliRun {
  readonly process: ChildProcess;
  readonly result: Promise<CliResult>;
  readonly #temporary: string;
  readonly #taps: readonly string[];
  #stdout = '';
  #changed: () => void = () => {};

  /** @param folder where its temporary folder and its cache are made */
  constructor(folder: string, args: readonly string[], uid?: number) {
    this.#temporary = path.join(folder, 'tmp');
    // Other tests make taps at the same time, so only those that were named are looked for.
    this.#taps = args.flatMap((arg) => /^tap=([^,/]+)/.exec(arg)?.[1] ?? []);
    mkdirSync(this.#temporary, { recursive: true });
    this.process = spawn(process.execPath, [PROGRAM, 'run', '--no-lab', ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      env: {
        ...process.env,
        TMPDIR: this.#temporary,
        XDG_RUNTIME_DIR: this.#temporary,
        XDG_CACHE_HOME: path.join(folder, 'cache'),
        // Another user cannot write coverage data, and Node would complain.
        ...(uid === undefined ? {} : { NODE_V8_COVERAGE: undefined }),
      },
      ...(uid === undefined ? {} : { uid, gid: uid }),
    });
    let stderr = '';
    this.process.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#stdout += text;
      this.#changed();
    });
    this.process.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    this.result = new Promise((resolve) => {
      this.process.on('close', (code, signal) => {
        this.#changed();
        resolve({ status: signal ?? code ?? 0, stdout: this.#stdout, stderr });
      });
    });
  }

  /** Resolves when the output holds a text; rejects when the run ends without. */
  async shows(text: string): Promise<void> {
    while (!this.#stdout.includes(text)) {
      if (this.process.exitCode !== null) throw new Error(`no ${text} in ${this.#stdout}`);
      await new Promise<void>((resolve) => {
        this.#changed = resolve;
      });
    }
  }

  #sockets(): string[] {
    const folder = path.join(this.#temporary, SOCKETS);
    return existsSync(folder) ? readdirSync(folder) : [];
  }

  /** What it left behind, a word each. @param disks files whose locks it had */
  leftovers(disks: readonly string[] = []): string[] {
    return [
      ...this.#taps.filter((name) => existsSync(path.join('/sys/class/net', name))),
      ...readdirSync(this.#temporary).filter((name) => name !== SOCKETS),
      ...this.#sockets(),
      ...(hasProcesses(this.process.pid ?? 0) ? ['processes'] : []),
      ...disks.filter(isLocked),
    ];
  }
}

function hasProcesses(group: number): boolean {
  try {
    return process.kill(-group, 0);
  } catch {
    return false;
  }
}

function isLocked(disk: string): boolean {
  try {
    new RawFile({ path: disk, readOnly: false, direct: false }).close();
    return false;
  } catch {
    return true;
  }
}

/**
 * Starts it, in a process group of its own. Its standard error is a pipe.
 * @param folder for its sockets and its cache
 */
export function runInTerminal(folder: string, args: readonly string[]): ChildProcess {
  return spawn('python3', ['-c', HOLDER, process.execPath, PROGRAM, 'run', '--no-lab', ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
    env: {
      ...process.env,
      XDG_RUNTIME_DIR: folder,
      XDG_CACHE_HOME: path.join(folder, 'cache'),
    },
  });
}
