/** Commands that run to their end, with all that they wrote. */
import type { Readable } from 'node:stream';
import { NodeVmmError, PeerError, UsageError } from '../host/errors.ts';
import type { CommandSpawner } from './command.ts';
import { type CommandLine, checkExecOptions, type ExecOptions, nameOf } from './command-options.ts';

/** Default limit on each output of `exec`, in bytes. */
export const MAX_BUFFER: number = 16 * 2 ** 20;

/** How a command ended, with all that it wrote. */
export interface ExecResult {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** 128 + signal when a signal ended it. */
  readonly exitCode: number;
}

/** What errors of `exec` have besides, when the command may have run: what it had written until then. */
export interface PartialOutput {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

/**
 * Runs a command to its end.
 * @throws UsageError when an option is wrong, it cannot be started, or writes more than `maxBuffer`
 *   (E_MAX_BUFFER); PeerError when it takes longer than `timeout` (E_TIMEOUT), or the guest or its agent goes;
 *   AbortError. Errors after its start have a PartialOutput.
 */
export async function exec(
  spawner: CommandSpawner,
  line: CommandLine,
  given: ExecOptions = {},
): Promise<ExecResult> {
  const { input, maxBuffer = MAX_BUFFER, ...others } = checkExecOptions(given);
  const command = spawner.spawn(line, others);
  command.stdin.on('error', () => {});
  command.stdin.end(input);
  const stdout = new Gathered(maxBuffer);
  const stderr = new Gathered(maxBuffer);
  const take = async (stream: Readable, into: Gathered, what: string): Promise<void> => {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      if (into.add(chunk)) continue;
      command.kill('SIGKILL');
      // Output still in flight is dropped: the rest of a killed command must not wait for a reader.
      command.stdout.destroy();
      command.stderr.destroy();
      throw new UsageError(
        'E_MAX_BUFFER',
        `${nameOf(line)} was killed: it wrote more than ${maxBuffer} bytes to its ${what}`,
        'raise maxBuffer, or read the streams of spawn',
      );
    }
  };
  const outputs = [
    take(command.stdout, stdout, 'standard output'),
    take(command.stderr, stderr, 'standard error'),
  ];
  try {
    const [{ exitCode }] = await Promise.all([command.exit, ...outputs]);
    return { stdout: stdout.bytes, stderr: stderr.bytes, exitCode };
  } catch (error) {
    // What has arrived is still read.
    await Promise.allSettled(outputs);
    throw withOutput(error, { stdout: stdout.bytes, stderr: stderr.bytes });
  }
}

/** The error of one command: when the guest goes, all of its commands get the same. */
function withOutput(error: unknown, output: PartialOutput): unknown {
  if (!(error instanceof NodeVmmError)) return error;
  const own =
    error instanceof PeerError
      ? new PeerError(error.code, error.problem, error.remedy, { cause: error })
      : error;
  return Object.assign(own, output);
}

/** The beginning of a stream, in one buffer that doubles: single bytes take no more room than together. */
export class Gathered {
  readonly #limit: number;
  #buffer = Buffer.alloc(0);
  #length = 0;

  /** @param limit the most bytes that are kept */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Adds bytes as far as the limit. @returns false when there were more */
  add(chunk: Buffer): boolean {
    const end = Math.min(this.#length + chunk.length, this.#limit);
    if (end > this.#buffer.length) {
      const size = Math.min(Math.max(end, 2 * this.#buffer.length), this.#limit);
      const larger = Buffer.allocUnsafe(size);
      this.#buffer.copy(larger, 0, 0, this.#length);
      this.#buffer = larger;
    }
    const copied = chunk.copy(this.#buffer, this.#length, 0, end - this.#length);
    this.#length = end;
    return copied === chunk.length;
  }

  get bytes(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }
}
