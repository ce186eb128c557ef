/** The process of a VMM that is measured: its output, its end, and its message when it failed. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { onProcessExit } from '../../src/host/threads.ts';

const KEPT_OUTPUT = 2000;
const END_GRACE_MS = 10_000;
/** A connection that a process held ends a moment before the process. */
const EXPLANATION_MS = 1000;
const LISTEN_POLL_MS = 20;
/** Of a listening socket in /proc/net/unix: __SO_ACCEPTCON of net.h. */
const ACCEPTS = '00010000';

/** A process that ends with its owner. */
export class Child implements AsyncDisposable {
  readonly process: ChildProcess;
  readonly #closed: Promise<unknown>;
  readonly #kill = (): void => void this.process.kill('SIGKILL');
  readonly #forget: () => void;
  #output = '';

  /** Starts it. @param ipc with a channel for messages @param input with a pipe to read from */
  constructor(argv: readonly string[], { ipc = false, input = false } = {}) {
    const [program, ...args] = argv;
    this.process = spawn(program ?? '', args, {
      stdio: [input ? 'pipe' : 'ignore', 'pipe', 'pipe', ...(ipc ? ['ipc' as const] : [])],
      serialization: 'advanced',
    });
    this.#forget = onProcessExit(this.#kill);
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        this.#output = (this.#output + chunk.toString('latin1')).slice(-KEPT_OUTPUT);
      });
    }
    this.#closed = Promise.race([
      once(this.process, 'close'),
      new Promise((resolve) => {
        this.process.on('error', (error) => {
          this.#output += error.message;
          resolve(undefined);
        });
      }),
    ]);
  }

  /** Rejects, with the end of its output, when it ends. */
  async failure(): Promise<never> {
    await this.#closed;
    const { exitCode, signalCode } = this.process;
    const how = signalCode ?? `status ${exitCode}`;
    throw new Error(`${this.process.spawnargs[0]} ended with ${how}: ${this.#output.trim()}`);
  }

  get #hasEnded(): boolean {
    const { pid, exitCode, signalCode } = this.process;
    return pid === undefined || exitCode !== null || signalCode !== null;
  }

  /** Waits until it listens on a socket. */
  async listens(socket: string, timeoutMs: number): Promise<void> {
    const late = performance.now() + timeoutMs;
    while (!isListening(socket)) {
      if (this.#hasEnded) await this.failure();
      if (performance.now() > late) {
        throw new Error(`no ${socket} in ${timeoutMs / 1000} s: ${this.#output.trim()}`);
      }
      await delay(LISTEN_POLL_MS);
    }
  }

  /** Waits for something as long as the process lives; when that ends, its end is the error. */
  async during<T>(what: string, done: Promise<T>, timeoutMs = 300_000): Promise<T> {
    const timeout = new AbortController();
    const late = delay(timeoutMs, undefined, { signal: timeout.signal }).then((): never => {
      const said = this.#output.trim();
      throw new Error(`${what}: nothing happened in ${timeoutMs / 1000} s: ${said}`);
    });
    const failure = this.failure();
    for (const other of [late, failure]) other.catch(() => {});
    try {
      return await Promise.race([done, failure, late]);
    } catch (error) {
      await Promise.race([this.#closed, delay(EXPLANATION_MS)]);
      if (this.#hasEnded) await failure;
      throw error;
    } finally {
      timeout.abort();
    }
  }

  /** Stops it (SIGSTOP) or continues it. */
  pause(paused: boolean): void {
    this.process.kill(paused ? 'SIGSTOP' : 'SIGCONT');
  }

  /** Terminates it, by force if necessary. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.pause(false);
    const timer = setTimeout(this.#kill, END_GRACE_MS);
    this.process.kill('SIGTERM');
    await this.#closed;
    clearTimeout(timer);
    this.#forget();
  }
}

/** Connecting to it would show this too, but some programs accept only one connection. */
function isListening(socket: string): boolean {
  return readFileSync('/proc/net/unix', 'latin1')
    .split('\n')
    .map((line) => line.split(/ +/))
    .some(([, , , flags, , , , path]) => flags === ACCEPTS && path === socket);
}
