/** Connects a guest's consoles and commands with the terminal, pipes and files of the person. */
import { createWriteStream } from 'node:fs';
import type { Duplex, Readable, Writable } from 'node:stream';
import type { ReadStream } from 'node:tty';
import { UsageError } from '../host/errors.ts';
import type { ConsoleTarget } from './run-options.ts';
import { ESCAPE_HELP, EscapeFilter, RawTerminal } from './terminal.ts';

/** What a run reads and writes: the process's own streams, or a test's. */
export interface RunStreams {
  readonly input: Readable;
  readonly output: Writable;
  readonly errorOutput: Writable;
  /** `input` when it is a terminal. */
  readonly terminal?: ReadStream | undefined;
  /** The size of the terminal that `output` is. */
  size(): { readonly columns: number; readonly rows: number } | undefined;
}

/**
 * Gives what is typed to a guest: raw and with Ctrl-A commands from a terminal, as it is from a pipe.
 * @param onQuit Ctrl-A x was typed
 * @returns lets go of the input and the terminal
 */
export function attachInput(
  streams: RunStreams,
  target: Writable,
  onQuit: () => void,
  endWithInput: boolean,
): Disposable {
  const { input, terminal, errorOutput } = streams;
  if (terminal === undefined) {
    input.pipe(target, { end: endWithInput });
    return {
      [Symbol.dispose]() {
        input.unpipe(target);
        input.pause();
      },
    };
  }
  const raw = new RawTerminal(terminal);
  const filter = new EscapeFilter((command) => {
    if (command === 'quit') onQuit();
    else errorOutput.write(ESCAPE_HELP);
  });
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

/** Opens the file that a console is written to. @throws UsageError when it can't be */
export async function openConsoleFile(path: string): Promise<Writable> {
  const stream = createWriteStream(path);
  await new Promise<void>((resolve, reject) => {
    stream.once('open', () => resolve());
    stream.once('error', (error) =>
      reject(
        new UsageError(
          'E_CONSOLE_FILE',
          `cannot write the console to ${path} (${error.message}); name a file that can be made`,
          { cause: error },
        ),
      ),
    );
  });
  return stream;
}

const TAIL_BYTES = 4096;

/** Where the bytes of one console go, and the end of what came, for the case that the guest dies. */
export class ConsoleOutput {
  #tail = '';
  #bytes = 0;

  /** @param to where the bytes go; undefined drops them */
  constructor(console: Duplex, to: Writable | undefined) {
    // Reading also when nobody listens: a guest must not block on a full console.
    console.on('data', (chunk: Buffer) => {
      this.#bytes += chunk.length;
      this.#tail = (this.#tail + chunk.toString('latin1')).slice(-TAIL_BYTES);
      if (to === undefined || to.write(chunk)) return;
      console.pause();
      to.once('drain', () => console.resume());
    });
  }

  /** How many bytes came. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The last of what came. */
  get tail(): string {
    return this.#tail;
  }
}

/** The stream that a target names; undefined for none. @throws UsageError */
export async function openTarget(
  target: ConsoleTarget,
  streams: RunStreams,
): Promise<Writable | undefined> {
  if (target.to === 'none') return undefined;
  return target.to === 'tty' ? streams.output : await openConsoleFile(target.path);
}
