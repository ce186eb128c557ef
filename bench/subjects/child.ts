/** The process of a VMM that is measured: its output, its end, and what it said when it failed. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { undoAtExit } from '../harness/at-exit.ts';

const KEPT_OUTPUT = 2000;
const END_GRACE_MS = 10_000;
/** A connection that a process held ends a moment before the process. */
const EXPLANATION_MS = 1000;

/** A process that ends with its owner. */
export class Child implements AsyncDisposable {
  readonly process: ChildProcess;
  readonly #closed: Promise<unknown>;
  readonly #kill: () => void;
  #output = '';

  /** Starts it with no input. @param ipc with a channel for messages */
  constructor(argv: readonly string[], ipc = false) {
    const [program, ...args] = argv;
    this.process = spawn(program ?? '', args, {
      stdio: ['ignore', 'pipe', 'pipe', ...(ipc ? ['ipc' as const] : [])],
      serialization: 'advanced',
    });
    this.#kill = undoAtExit(() => void this.process.kill('SIGKILL'));
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

  /** Rejects with an error, or better with the process's end, when that is what it comes from. */
  readonly explain = async (error: unknown): Promise<never> => {
    const late = delay(EXPLANATION_MS);
    await Promise.race([this.#closed, late]);
    if (this.process.exitCode !== null || this.process.signalCode !== null) {
      return await this.failure();
    }
    throw error;
  };

  /** Waits for something as long as the process lives, at most so long. */
  async during<T>(what: string, done: Promise<T>, timeoutMs = 300_000): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        const said = this.#output.trim();
        reject(new Error(`${what}: nothing happened in ${timeoutMs / 1000} s: ${said}`));
      }, timeoutMs);
    });
    const failure = this.failure();
    failure.catch(() => {});
    try {
      return await Promise.race([done, failure, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Asks it to end, and makes it. */
  async [Symbol.asyncDispose](): Promise<void> {
    const timer = setTimeout(this.#kill, END_GRACE_MS);
    this.process.kill('SIGTERM');
    await this.#closed;
    clearTimeout(timer);
    this.#kill();
  }
}

/** Resolves when a file is there, such as the socket that a process makes. */
export async function appears(file: string): Promise<void> {
  while (!existsSync(file)) await delay(20);
}
