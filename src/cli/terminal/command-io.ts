/** Connects a command that an agent runs with the user's streams and terminal. */
import type { Writable } from 'node:stream';
import type { CommandExit, GuestProcess } from '../../agent/command.ts';
import type { CleanupStack } from '../../host/cleanup-stack.ts';
import { attachInput, type InputOptions, type RunStreams } from './console-io.ts';

/** The size of the user's terminal, when both input and output are one: then the command gets one too. */
export function terminalOf(
  streams: RunStreams,
): { readonly columns: number; readonly rows: number } | undefined {
  return streams.terminal === undefined ? undefined : streams.size();
}

/**
 * Streams a command's input and output until it ends.
 * @param cleanup releases the terminal at the latest
 * @param onOutput called before each piece of its output is passed on
 * @throws UsageError when the command can't be started, PeerError when its agent goes
 */
export async function streamCommand(
  command: GuestProcess,
  streams: RunStreams,
  options: Omit<InputOptions, 'endWithInput'>,
  cleanup: CleanupStack,
  onOutput: () => void = () => {},
): Promise<CommandExit> {
  const size = terminalOf(streams);
  // A command that ends early, or never reads, closes its input under the writer.
  command.stdin.on('error', () => {});
  const copied = Promise.all([
    copy(command.stdout, streams.output, onOutput),
    copy(command.stderr, streams.errorOutput, onOutput),
  ]);
  // The first one awaited reports the cause; the others fail with it.
  for (const other of [copied, command.exit]) other.catch(() => {});
  // Until the command runs the terminal stays as it is, and Ctrl-C works.
  await command.started;
  const input = size === undefined ? { ...streams, terminal: undefined } : streams;
  cleanup.use(attachInput(input, command.stdin, { ...options, endWithInput: true }));
  if (size !== undefined) {
    followSize(streams, (columns, rows) => command.resize(columns, rows), cleanup);
  }
  const exit = await command.exit;
  await copied;
  return exit;
}

/** Copies a stream to its end; the target stays open. */
async function copy(
  from: AsyncIterable<Buffer>,
  to: Writable,
  onOutput: () => void,
): Promise<void> {
  for await (const chunk of from) {
    onOutput();
    if (!to.write(chunk)) await new Promise<void>((resolve) => to.once('drain', () => resolve()));
  }
}

/** Passes the terminal's size to a guest, now and whenever it changes. */
export function followSize(
  streams: RunStreams,
  tell: (columns: number, rows: number) => void,
  cleanup: CleanupStack,
): void {
  const update = (): void => {
    const size = streams.size();
    if (size !== undefined) tell(size.columns, size.rows);
  };
  update();
  process.on('SIGWINCH', update);
  cleanup.defer(() => process.removeListener('SIGWINCH', update));
}
