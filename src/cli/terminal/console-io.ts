/** Connects a guest's consoles and commands with the user's terminal, pipes and files. */
import type { Duplex, Readable, Writable } from 'node:stream';
import type { ReadStream } from 'node:tty';
import type { ConsoleTarget } from '../run/run-options.ts';
import { ConsoleFile } from './console-file.ts';
import { ESCAPE_HELP, EscapeFilter, RawTerminal, terminalInput, terminalSize } from './terminal.ts';

/** The streams of a run: the process's own, or a test's. */
export interface RunStreams {
  readonly input: Readable;
  readonly output: Writable;
  readonly errorOutput: Writable;
  /** `input` when it is a terminal. */
  readonly terminal?: ReadStream | undefined;
  /** The size of the terminal that `output` is. */
  size(): { readonly columns: number; readonly rows: number } | undefined;
}

/** The process's own. */
export const PROCESS_STREAMS: RunStreams = {
  input: process.stdin,
  output: process.stdout,
  errorOutput: process.stderr,
  terminal: terminalInput(),
  size: terminalSize,
};

/** How a guest gets its input. */
export interface InputOptions {
  /** Ctrl-A x was typed. */
  onQuit(): void;
  /** The end of a piped input ends the target. */
  readonly endWithInput?: boolean;
  /** The target handles Ctrl-A commands itself. */
  readonly passEscapes?: boolean;
}

/**
 * Passes input to a guest: raw and with Ctrl-A commands from a terminal, unchanged from a pipe.
 * @returns releases the input and the terminal
 */
export function attachInput(
  streams: RunStreams,
  target: Writable,
  options: InputOptions,
): Disposable {
  const { input, terminal, errorOutput } = streams;
  if (terminal === undefined) {
    input.pipe(target, { end: options.endWithInput === true });
    return {
      [Symbol.dispose]() {
        input.unpipe(target);
        input.pause();
      },
    };
  }
  const raw = new RawTerminal(terminal);
  const pass = options.passEscapes === true;
  const filter = new EscapeFilter((command) => {
    if (command === 'quit') options.onQuit();
    else if (!pass) errorOutput.write(ESCAPE_HELP);
  }, pass);
  input.pipe(filter).pipe(target, { end: false });
  return {
    [Symbol.dispose]() {
      input.unpipe(filter);
      filter.unpipe(target);
      input.pause();
      raw.close();
    },
  };
}

const TAIL_BYTES = 4096;

/** Where the bytes of one console go, and the end of its output in case the guest dies. */
export class ConsoleOutput {
  readonly #console: Duplex;
  #tail = '';
  #bytes = 0;

  /** @param to where the bytes go; undefined drops them */
  constructor(console: Duplex, to: Writable | undefined) {
    this.#console = console;
    console.on('data', (chunk: Buffer) => {
      this.#bytes += chunk.length;
      this.#tail = (this.#tail + chunk.toString('latin1')).slice(-TAIL_BYTES);
      if (to === undefined || to.write(chunk)) return;
      console.pause();
      to.once('drain', () => console.resume());
    });
  }

  /** Writes the rest once the guest has ended: a slow target takes it at its own pace. */
  finish(): void {
    this.#console.pause();
    // A `data` event each. Bounded by what a console keeps for its reader.
    while (this.#console.read() !== null);
  }

  /** How many bytes came. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The end of the output. */
  get tail(): string {
    return this.#tail;
  }
}

/** Where a console's output goes; disposing waits until all of it has arrived. */
export interface ConsoleSink extends AsyncDisposable {
  /** Undefined: nowhere. */
  readonly stream: Writable | undefined;
}

/**
 * Opens what a target names.
 * @param log gets a line when a file can no longer be written
 * @throws UsageError when it is a file that can't be opened
 */
export function openTarget(
  target: ConsoleTarget,
  streams: RunStreams,
  log: (text: string) => void,
): ConsoleSink {
  if (target.to === 'file') {
    const file = new ConsoleFile({ path: target.path, append: target.append === true, log });
    return { stream: file, [Symbol.asyncDispose]: () => file.finish() };
  }
  return {
    stream: target.to === 'tty' ? streams.output : undefined,
    // The terminal is not ours to close.
    async [Symbol.asyncDispose]() {},
  };
}
