/** A run whose standard output is a terminal that nobody reads, as after Ctrl-S. */
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** The program, for kernels of a few bytes. */
export const PROGRAM = fileURLToPath(new URL('cli-any-kvm.js', import.meta.url));

/** Holds the terminal's other side open, passes SIGTERM on, and ends with the run's status. */
const HOLDER = `
import os, signal, subprocess, sys
master, slave = os.openpty()
run = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=slave)
signal.signal(signal.SIGTERM, lambda *_: run.send_signal(signal.SIGTERM))
sys.exit(run.wait() % 256)
`;

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
