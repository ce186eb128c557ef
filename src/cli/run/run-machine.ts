/** One run of a machine from the command line: its console or a command in it, to the end. */
import type { Duplex } from 'node:stream';
import type { CommandExit, GuestProcess } from '../../agent/command.ts';
import type { SpawnOptions } from '../../agent/command-options.ts';
import { CleanupStack } from '../../host/cleanup-stack.ts';
import { inTime } from '../../host/deadline.ts';
import { NodeVmmError } from '../../host/errors.ts';
import { endAtOnce } from '../../host/threads.ts';
import type { MachineExit } from '../../machine/options.ts';
import {
  EXIT_COMMAND_LOST,
  EXIT_COMMAND_STOPPED,
  EXIT_OK,
  signalStatus,
  statusOf,
} from '../exit-status.ts';
import { StopSignals } from '../stop-signals.ts';
import { followSize, streamCommand, terminalOf } from '../terminal/command-io.ts';
import { attachInput, ConsoleOutput, openTarget, type RunStreams } from '../terminal/console-io.ts';
import { Messages, reportError } from '../terminal/messages.ts';
import { ProgressLine } from '../terminal/progress.ts';
import { hurry } from '../terminal/standard-streams.ts';
import { BootDisplay } from './boot-display.ts';
import type { ConsoleTarget } from './run-options.ts';

/** What a run needs of a virtual machine. */
export interface RunnableMachine {
  readonly console: Duplex;
  readonly serial: Duplex;
  start(): Promise<void>;
  stop(): Promise<void>;
  wait(): Promise<MachineExit>;
  spawn(argv: readonly string[], options?: SpawnOptions): GuestProcess | Promise<GuestProcess>;
  resizeConsole(columns: number, rows: number): void;
  /** Bytes that were dropped unread. */
  readonly droppedOutput: { readonly console: number; readonly serial: number };
  on(event: 'log', listener: (text: string) => void): unknown;
}

/** What to do with the machine. */
export interface RunPlan {
  readonly console: ConsoleTarget;
  readonly serial: ConsoleTarget;
  /** A command to run in the guest instead of waiting for its end. */
  readonly command?: readonly string[];
  /** Added to the command's environment. */
  readonly env?: Readonly<Record<string, string>>;
}

/** Why a run ended. */
type End =
  | { readonly kind: 'machine'; readonly exit: MachineExit }
  | { readonly kind: 'command'; readonly exit: CommandExit }
  | { readonly kind: 'lost'; readonly error: unknown }
  | { readonly kind: 'signal'; readonly signal: NodeJS.Signals }
  | { readonly kind: 'quit' };

/** How long the machine's own end may take to show after its agent fell silent. */
const LOST_GRACE_MS = 2000;

/**
 * Runs a created machine until it, the command in it, or the user ends it.
 * @param signals the caller may keep them: what follows may take long, too
 * @returns the exit status; the machine is then stopped, but not disposed
 */
export async function runMachine(
  vm: RunnableMachine,
  plan: RunPlan,
  streams: RunStreams,
  signals?: StopSignals,
): Promise<number> {
  using cleanup = new CleanupStack();
  const messages = new Messages(streams.errorOutput, () => streams.terminal?.isRaw === true);
  const log = (text: string): void => messages.say(text);
  vm.on('log', log);
  const person = waitForPerson(cleanup, signals);
  await using consoleSink = openTarget(plan.console, streams, log);
  await using serialSink = openTarget(plan.serial, streams, log);
  const output = new ConsoleOutput(vm.console, consoleSink.stream);
  const serial = new ConsoleOutput(vm.serial, serialSink.stream);
  if (plan.command === undefined && plan.console.to === 'tty') {
    cleanup.use(attachInput(streams, vm.console, { onQuit: person.quit }));
    followSize(streams, (columns, rows) => vm.resizeConsole(columns, rows), cleanup);
  } else if (plan.command === undefined && plan.serial.to === 'tty') {
    cleanup.use(attachInput(streams, vm.serial, { onQuit: person.quit }));
  }
  if (streams.terminal !== undefined) {
    const shown = plan.serial.to === 'tty' ? vm.serial : vm.console;
    const consoles = { console: shown, serial, serialTarget: plan.serial };
    cleanup.use(new BootDisplay(consoles, new ProgressLine()));
  }
  await vm.start();
  const work =
    plan.command === undefined
      ? undefined
      : runCommand(vm, plan.command, plan.env, streams, person.quit, cleanup);
  const machine = vm.wait().then((exit): End => ({ kind: 'machine', exit }));
  const races = [machine, person.end, ...(work === undefined ? [] : [work])];
  let end = await Promise.race(races);
  if (end.kind === 'lost') end = await causeOfLoss(end, end.error, machine);
  if (end.kind !== 'machine') await vm.stop();
  cleanup.dispose();
  output.finish();
  serial.finish();
  tellDropped(vm, log);
  return statusOfEnd(end, plan, log, () => {
    // Before the virtio console is up, the kernel reports problems on the serial port.
    if (output.bytes === 0 && plan.serial.to === 'none' && serial.bytes > 0) {
      messages.show(serial.tail.trimEnd());
    }
  });
}

function tellDropped(vm: RunnableMachine, log: (text: string) => void): void {
  const { console, serial } = vm.droppedOutput;
  if (console > 0) log(`${console} bytes of the console's output were dropped`);
  if (serial > 0) log(`${serial} bytes of the serial port's output were dropped`);
}

function statusOfEnd(
  end: End,
  plan: RunPlan,
  log: (text: string) => void,
  showSerial: () => void,
): number {
  switch (end.kind) {
    case 'quit':
      return EXIT_OK;
    case 'signal':
      return signalStatus(end.signal);
    case 'command':
      return end.exit.exitCode;
    case 'lost':
      return reportError(end.error);
    case 'machine': {
      const { reason, detail, asked } = end.exit;
      const status = statusOf(reason);
      if (status !== EXIT_OK) {
        showSerial();
        log(`the guest ended: ${reason}${detail === undefined ? '' : `: ${detail}`}`);
        return status;
      }
      if (plan.command === undefined) return status;
      if (reason === 'stopped' || asked === true) {
        const how = asked === true ? 'shut down' : 'stopped';
        log(`the machine was ${how} before the command ${plan.command[0]} had ended`);
        return EXIT_COMMAND_STOPPED;
      }
      log(`the guest ended (${reason}) before the command ${plan.command[0]} did`);
      return EXIT_COMMAND_LOST;
    }
  }
}

/** Resolves when the user stops the run, by a signal or by Ctrl-A x. A second one does not wait. */
function waitForPerson(
  cleanup: CleanupStack,
  given: StopSignals | undefined,
): { end: Promise<End>; quit: () => void } {
  let resolve: (end: End) => void = () => {};
  const end = new Promise<End>((settle) => {
    resolve = settle;
  });
  const signals = given ?? new StopSignals();
  if (given === undefined) cleanup.use(signals);
  const restore = (): void => cleanup.dispose();
  const leave = (how: End): void => {
    // Also when the machine has just ended: what is left then is its output.
    hurry();
    resolve(how);
  };
  signals.watch((signal) => leave({ kind: 'signal', signal }), restore);
  const quit = (): void =>
    signals.ask(
      () => leave({ kind: 'quit' }),
      () => {
        restore();
        endAtOnce(EXIT_OK);
      },
    );
  return { end, quit };
}

async function runCommand(
  vm: RunnableMachine,
  argv: readonly string[],
  env: RunPlan['env'],
  streams: RunStreams,
  onQuit: () => void,
  cleanup: CleanupStack,
): Promise<End> {
  try {
    const size = terminalOf(streams);
    const process = await vm.spawn(argv, {
      ...(env === undefined ? {} : { env }),
      ...(size === undefined ? {} : { tty: size }),
    });
    return { kind: 'command', exit: await streamCommand(process, streams, { onQuit }, cleanup) };
  } catch (error) {
    return { kind: 'lost', error };
  }
}

/** When an agent falls silent, usually its guest ended: the guest's end is the better reason. */
async function causeOfLoss(lost: End, error: unknown, machine: Promise<End>): Promise<End> {
  if (error instanceof NodeVmmError && error.code === 'E_GUEST_ENDED') return await machine;
  return await inTime(machine, LOST_GRACE_MS, () => lost);
}
