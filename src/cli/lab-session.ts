/** One command in the lab on the person's terminal or pipes. */
import type { GuestProcess } from '../agent/command.ts';
import { UsageError } from '../host/errors.ts';
import type { Lab } from '../lab/lab.ts';
import { RawTerminal, terminalInput, terminalSize } from './terminal.ts';

/** Exit statuses of shells for a command that cannot be run. */
const NOT_FOUND = 127;
const NOT_EXECUTABLE = 126;

/**
 * Runs a command with our standard streams; with a terminal of its own when ours are one.
 * @returns its exit status
 */
export async function runInLab(lab: Lab, argv: readonly string[]): Promise<number> {
  const terminal = terminalInput();
  const size = terminal === undefined ? undefined : terminalSize();
  const command = lab.spawn(argv, size === undefined ? {} : { tty: size });
  command.stdout.pipe(process.stdout);
  command.stderr.pipe(process.stderr);
  try {
    await command.started;
    using raw = size === undefined || terminal === undefined ? undefined : new RawTerminal(terminal);
    const resize = (): void => {
      const now = terminalSize();
      if (now !== undefined) command.resize(now.columns, now.rows);
    };
    if (raw !== undefined) process.on('SIGWINCH', resize);
    return await pumped(command).finally(() => process.removeListener('SIGWINCH', resize));
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    process.stderr.write(`nodevmm: ${error.message}\n`);
    return error.code === 'ENOENT' ? NOT_FOUND : NOT_EXECUTABLE;
  }
}

async function pumped(command: GuestProcess): Promise<number> {
  process.stdin.pipe(command.stdin);
  try {
    return (await command.exit).exitCode;
  } finally {
    process.stdin.unpipe(command.stdin);
    process.stdin.pause();
    await Promise.all([drained(command.stdout), drained(command.stderr)]);
  }
}

/** The exit may come before a slow reader of ours has taken the last output. */
async function drained(stream: NodeJS.ReadableStream & { readableEnded?: boolean }): Promise<void> {
  if (stream.readableEnded === true) return;
  await new Promise<void>((resolve) => {
    stream.once('end', resolve);
    stream.once('close', resolve);
  });
}
