/** Runs a program of the host in the lab, as if it ran here: streams, terminal, signals, status. */
import { CleanupStack } from '../../host/cleanup-stack.ts';
import { openLab } from '../../lab/kept.ts';
import type { LabOptions } from '../../lab/lab.ts';
import { signalStatus } from '../exit-status.ts';
import { STOP_SIGNALS } from '../stop-signals.ts';
import { streamCommand, terminalOf } from '../terminal/command-io.ts';
import type { RunStreams } from '../terminal/console-io.ts';
import { ProgressLine } from '../terminal/progress.ts';
import { hurry } from '../terminal/standard-streams.ts';

/** How long a program may take to end once it was asked to. */
const END_GRACE_MS = 10_000;

/** How to run a program in the lab. */
export interface LabRunOptions extends LabOptions {
  /** The program handles Ctrl-A x itself. */
  readonly passEscapes: boolean;
  /** What it gets in a file, whose path is its last argument. */
  readonly data?: string;
}

/**
 * Runs a program in the kept lab, or in one that is booted for it and ends with it.
 * @param argv program and arguments, with the host's paths
 * @returns its exit status; 128 + n after signal n
 */
export async function runProgramInLab(
  argv: readonly string[],
  streams: RunStreams,
  { passEscapes, data, ...labOptions }: LabRunOptions,
): Promise<number> {
  using cleanup = new CleanupStack();
  using progress = new ProgressLine();
  await using lab = await openLab({ ...labOptions, onProgress: progress.update });
  const tty = terminalOf(streams);
  const files = data === undefined ? [] : [await lab.writeFile(data)];
  const command = lab.spawn([...argv, ...files], tty === undefined ? {} : { tty });
  let signalled: NodeJS.Signals | undefined;
  let giveUp: (status: number) => void = () => {};
  const gaveUp = new Promise<number>((resolve) => {
    giveUp = resolve;
  });
  const end = (status: number): void => {
    const timer = setTimeout(() => giveUp(status), END_GRACE_MS);
    cleanup.defer(() => clearTimeout(timer));
  };
  for (const signal of STOP_SIGNALS) {
    const listener = (): void => {
      // The second signal does not wait.
      if (signalled !== undefined) giveUp(signalStatus(signal));
      signalled = signal;
      hurry();
      command.kill(signal);
      end(signalStatus(signal));
    };
    process.on(signal, listener);
    cleanup.defer(() => process.removeListener(signal, listener));
  }
  const onQuit = (): void => {
    hurry();
    end(0);
  };
  // Only for an interactive user: scripts read nothing but the program's own output.
  if (tty === undefined) progress.close();
  else progress.update('lab: starting the program');
  const shown = (): void => progress.close();
  const ran = streamCommand(command, streams, { onQuit, passEscapes }, cleanup, shown);
  return await Promise.race([ran.then((exit) => exit.exitCode), gaveUp]);
}
