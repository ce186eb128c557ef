/** What a test may use of this host: another user (if root), taps, programs. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Tap } from '../../../src/backend/tap.ts';
import { findProgram } from '../../../src/guest/programs.ts';
import { packageFolder } from '../../../src/host/package-folder.ts';

/** The program as it is installed, which starts in half the time of dist/src. */
export const BUNDLE = join(packageFolder, 'dist/bundle/bin/main.js');

/** `nobody` on every distribution. */
export const OTHER_UID = 65_534;

const AS_OTHER = ['--reuid', String(OTHER_UID), '--regid', String(OTHER_UID), '--clear-groups'];

/** Why there is no other user here, for a test's `skip`; false where there is. */
export function otherUserReason(): string | false {
  if (process.geteuid?.() !== 0) return 'only root can act for another user';
  const { status } = spawnSync('setpriv', [...AS_OTHER, process.execPath, '-e', '']);
  return status === 0 ? false : 'the other user cannot run node here';
}

/** Runs a script as that user. Its standard output is a pipe. */
export function asOtherUser(script: string): ChildProcess {
  return spawn('setpriv', [...AS_OTHER, process.execPath, '-e', script], {
    stdio: ['pipe', 'pipe', 'inherit'],
    cwd: '/',
  });
}

/** A folder in which that user, and this one, may do everything. */
export class SharedFolder implements Disposable {
  readonly path: string = mkdtempSync(join(tmpdir(), 'nodevmm-shared-'));

  constructor() {
    chownSync(this.path, OTHER_UID, OTHER_UID);
    chmodSync(this.path, 0o755);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true });
  }
}

/** A process of that user that listens on a unix socket, and prints how much it receives. */
export class OtherListener implements Disposable {
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];
  #notify: () => void = () => {};

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#lines.push(...text.split('\n').filter((line) => line !== ''));
      this.#notify();
    });
  }

  /** Resolves once it listens. */
  static async open(file: string): Promise<OtherListener> {
    const listener = new OtherListener(
      asOtherUser(`
        const server = require('node:net').createServer((socket) => {
          let bytes = 0;
          socket.on('data', (chunk) => { bytes += chunk.length; });
          socket.on('error', () => {}).on('close', () => console.log('received ' + bytes));
        });
        server.listen({ path: ${JSON.stringify(file)}, writableAll: true }, () => console.log('listens'));
        process.stdin.on('end', () => process.exit()).resume();`),
    );
    await listener.next();
    return listener;
  }

  /** Its next line: `listens`, or `received N` bytes once a connection is over. */
  async next(): Promise<string> {
    for (;;) {
      const line = this.#lines.shift();
      if (line !== undefined) return line;
      await new Promise<void>((resolve) => {
        this.#notify = resolve;
      });
    }
  }

  [Symbol.dispose](): void {
    this.#child.kill('SIGKILL');
  }
}

/**
 * Where a program is.
 * @throws Error that names the package which has it, when there is none
 */
export function programPath(name: string): string {
  const found = findProgram(name);
  if (found !== undefined) return found;
  const entries = JSON.parse(readFileSync('src/packages.json', 'utf8')) as readonly {
    readonly name: string;
    readonly probe: readonly string[];
  }[];
  const entry = entries.find(({ probe }) => probe.includes(name));
  const remedy = entry === undefined ? 'install its package' : `apt-get install ${entry.name}`;
  throw new Error(`${name} is not on this host; ${remedy}`);
}

/** False when taps can be made, else why not: for a test's `skip`. */
export function tapReason(): string | false {
  try {
    new Tap().close();
    return false;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/**
 * Resolves once a process listens on a unix socket, without connecting to it: a backend would take
 * that for its frontend.
 * @throws Error when the process ends before
 */
export async function untilListening(socket: string, child: ChildProcess): Promise<void> {
  while (!listeners().includes(socket)) {
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(`${child.spawnfile} ended before it listened on ${socket}`);
    await delay(10);
  }
}

/** Paths of all unix sockets with __SO_ACCEPTCON. */
const listeners = (): string[] =>
  readFileSync('/proc/net/unix', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter((fields) => fields[3] === '00010000')
    .map((fields) => fields.at(-1) ?? '');
