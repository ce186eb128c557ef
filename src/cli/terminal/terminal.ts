/**
 * The user's terminal while a guest's console has it: raw mode, Ctrl-A commands, and the original
 * state on every way out.
 */

import { Transform, type TransformCallback } from 'node:stream';
import { isatty, ReadStream } from 'node:tty';
import { Closeable } from '../../host/cleanup-stack.ts';

const ESCAPE = 0x01;

/** The commands that follow Ctrl-A. */
export type EscapeCommand = 'quit' | 'help';

export const ESCAPE_HELP =
  '\r\nCtrl-A x  leave: stops the guest\r\nCtrl-A h  this help\r\nCtrl-A Ctrl-A  sends Ctrl-A\r\n';

/** Finds Ctrl-A commands in the input; passes the rest on. */
export class EscapeFilter extends Transform {
  readonly #onCommand: (command: EscapeCommand) => void;
  readonly #watch: boolean;
  #escaped = false;

  /** @param watch pass the commands on as well: another filter behind this one handles them */
  constructor(onCommand: (command: EscapeCommand) => void, watch = false) {
    super();
    this.#onCommand = onCommand;
    this.#watch = watch;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    const kept: number[] = [];
    for (const byte of chunk) {
      if (!this.#escaped) {
        if (byte === ESCAPE) this.#escaped = true;
        else kept.push(byte);
        continue;
      }
      this.#escaped = false;
      if (byte === 0x78 || byte === 0x58) this.#onCommand('quit');
      else if (byte === 0x68 || byte === 0x3f) this.#onCommand('help');
      else if (byte === ESCAPE) kept.push(ESCAPE);
      // Anything else after Ctrl-A was meant for the guest as typed.
      else kept.push(ESCAPE, byte);
    }
    if (this.#watch) done(null, chunk);
    else done(null, kept.length === 0 ? undefined : Buffer.from(kept));
  }
}

/** Raw mode with an owner. At most one at a time. */
export class RawTerminal extends Closeable {
  readonly #input: ReadStream;
  readonly #restore = (): void => this.close();
  #open = true;

  /** @param input a terminal */
  constructor(input: ReadStream) {
    super();
    this.#input = input;
    input.setRawMode(true);
    // Also when an exception escapes every handler: a terminal left raw is unusable.
    process.on('exit', this.#restore);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    process.removeListener('exit', this.#restore);
    this.#input.setRawMode(false);
  }
}

/** Standard input when it is a terminal. */
export function terminalInput(): ReadStream | undefined {
  return isatty(0) && process.stdin instanceof ReadStream ? process.stdin : undefined;
}

/** The size of the terminal that standard output is, if it is one. */
export function terminalSize(): { columns: number; rows: number } | undefined {
  const { columns, rows, isTTY } = process.stdout;
  return isTTY && columns > 0 && rows > 0 ? { columns, rows } : undefined;
}
