/** `nodevmm run` and `nodevmm start`: a machine from the command line, here or in the lab. */
import { readFileSync, unlinkSync } from 'node:fs';
import { Option } from 'commander';
import type { KernelSeries } from '../../guest/kernel.ts';
import { UsageError } from '../../host/errors.ts';
import { type ControlledMachine, ControlServer } from '../../machine/control/server.ts';
import type { MachineOptions } from '../../machine/options.ts';
import { folderOf, writtenFolders } from '../../machine/resolve-options.ts';
import { given } from '../../options/option-schema.ts';
import type { TraceSummary } from '../../virtio/observe/trace/trace-collector.ts';
import { EXIT_STATUS_HELP, type RegisterCommand } from '../exit-status.ts';
import { StopSignals } from '../stop-signals.ts';
import { PROCESS_STREAMS, type RunStreams } from '../terminal/console-io.ts';
import { MESSAGES } from '../terminal/messages.ts';
import { ProgressLine } from '../terminal/progress.ts';
import { type RunnableMachine, type RunPlan, runMachine } from './run-machine.ts';
import {
  addMachineOptions,
  type BootImage,
  bootImage,
  type ConsoleTarget,
  machineOptions,
  type RunFlags,
  wantsSummary,
} from './run-options.ts';
import { traceTable } from './trace-table.ts';

/** The parts of a machine that a traced run needs. */
interface TracedMachine {
  traceSummary(): Promise<TraceSummary | undefined>;
}

/** What a run uses; tests substitute their own. */
export interface RunParts {
  createMachine(
    options: MachineOptions,
  ): Promise<RunnableMachine & ControlledMachine & TracedMachine & AsyncDisposable>;
  /** Finds or builds a guest image. */
  buildGuest(
    name: string,
    options: {
      readonly kernel?: KernelSeries;
      /** Kernel modules that it gets in addition to its own. */
      readonly modules?: readonly string[];
      readonly onProgress: (step: string, fraction: number) => void;
    },
  ): Promise<BootImage>;
  /** Why this host's KVM cannot run Linux, in one line; undefined when it can. */
  whyNoKvm(): string | undefined;
  /**
   * Runs a machine in the emulated KVM host.
   * @param shares folders that it writes to
   * @returns its exit status
   */
  runInLab(spec: RunSpec, streams: RunStreams, shares: readonly string[]): Promise<number>;
}

/** One run: its options, as data that JSON can carry. */
export interface RunSpec {
  readonly machine: MachineOptions;
  readonly plan: RunPlan;
  /** Its name for `nodevmm vm`. Default: the process ID. */
  readonly name?: string;
  /** Whether to show the table of --trace=summary at the end. */
  readonly summary: boolean;
}

const EXAMPLES = `
Examples:
  nodevmm run                                  a shell in the minimal guest
  nodevmm run -- uname -a                      one command in it, with its exit status
  nodevmm run --cpus 4 --memory 2G --disk data.raw,queues=4 --net auto,address=10.0.2.1/24
  nodevmm run --disk a.raw,packed --disk b.raw,ro --guest tools -- fio --version
  nodevmm run --kernel bzImage --initrd initrd.img --append 'debug' --console file:boot.log
  nodevmm run --no-lab --hide-cpu-feature avx2,smep
  nodevmm run --vsock cid=3,path=vm.sock       port 52 of the guest: CONNECT 52 on vm.sock`;

/** Adds `run`. */
export const registerRunCommand: (parts: RunParts) => RegisterCommand =
  (parts) => (program, finish) => {
    const command = program
      .command('run')
      .description('boot a guest; with -- COMMAND, run one command in it')
      .argument('[command...]', 'after --: a program in the guest, and its arguments')
      .addHelpText('after', EXAMPLES + EXIT_STATUS_HELP);
    command.addOption(new Option('--spec <file>', 'a run as JSON; it is removed').hideHelp());
    addMachineOptions(command).action(async (argv: string[], flags: RunFlags) => {
      if (typeof flags.spec === 'string') {
        finish(await runHere(parts, takeSpec(flags.spec)));
        return;
      }
      if (argv.length > 0 && !process.argv.includes('--')) {
        throw new UsageError(
          'E_OPTION',
          `${argv[0]} is not an option`,
          `put a command for the guest after --, such as: nodevmm run -- ${argv[0]}`,
        );
      }
      finish(await run(parts, flags, argv));
    });
  };

/** Adds `start`. */
export const registerStartCommand: (parts: RunParts) => RegisterCommand =
  (parts) => (program, finish) => {
    const command = program
      .command('start')
      .description('boot the minimal guest and open its console (what `npm start` does)')
      .addHelpText('after', EXIT_STATUS_HELP);
    addMachineOptions(command).action(async (flags: RunFlags) => {
      MESSAGES.say('booting Linux; Ctrl-A x leaves, Ctrl-A h helps');
      finish(await run(parts, flags, []));
    });
  };

/** One run, here or in the lab. @returns the exit status */
async function run(parts: RunParts, flags: RunFlags, argv: readonly string[]): Promise<number> {
  // Bad usage is reported at once, before anything is built or booted.
  const machine = machineOptions(flags);
  const inLab = takesLab(parts, flags);
  const boot = bootImage(flags, await findImage(parts, flags));
  const spec = runSpec(flags, argv, { ...boot, ...machine });
  if (inLab) return await parts.runInLab(spec, PROCESS_STREAMS, sharedFolders(spec));
  return await runHere(parts, spec);
}

/** A run of a machine, as the command line describes it. */
export function runSpec(
  flags: RunFlags,
  argv: readonly string[],
  machine: MachineOptions,
): RunSpec {
  const command = argv.length > 0 ? argv : undefined;
  const { env, name, serial = { to: 'none' } } = flags;
  const console: ConsoleTarget = flags.console ?? { to: command === undefined ? 'tty' : 'none' };
  const plan: RunPlan = given({ console, serial, command, env });
  return given<RunSpec>({ machine, plan, name, summary: wantsSummary(flags) });
}

/** In the lab: the run that was parsed outside. Variables in it may be secret. */
function takeSpec(file: string): RunSpec {
  const spec = JSON.parse(readFileSync(file, 'utf8')) as RunSpec;
  unlinkSync(file);
  return spec;
}

async function runHere(
  parts: RunParts,
  { machine, plan, name, summary }: RunSpec,
): Promise<number> {
  // Until the very end: releasing the machine waits for threads that may be busy.
  using signals = new StopSignals();
  await using vm = await parts.createMachine(machine);
  using _control = await ControlServer.open(vm, name ?? String(process.pid));
  const status = await runMachine(vm, plan, PROCESS_STREAMS, signals);
  const trace = await vm.traceSummary();
  if (trace !== undefined && summary) MESSAGES.show(traceTable(trace).join('\n'));
  return status;
}

/** @throws UsageError when neither the host nor the lab may be used */
function takesLab(parts: RunParts, flags: RunFlags): boolean {
  if (flags.lab === true) return true;
  const why = parts.whyNoKvm();
  if (why === undefined) return false;
  if (flags.lab === false) {
    throw new UsageError('E_KVM', why, 'leave out --no-lab to use the lab');
  }
  MESSAGES.say(`${why}; falling back to the lab, an emulated KVM host`);
  return true;
}

/**
 * The folders that the lab has to share: those that a run writes to, and those whose files it has
 * to see change meanwhile.
 */
export function sharedFolders({ machine, plan }: RunSpec): string[] {
  const consoles = [plan.console, plan.serial].flatMap((target) =>
    target.to === 'file' ? folderOf(target.path) : [],
  );
  return [...new Set([...writtenFolders(machine), ...consoles])];
}

async function findImage(parts: RunParts, flags: RunFlags): Promise<BootImage | undefined> {
  if (flags.module !== undefined && (flags.kernel ?? flags.initrd) !== undefined) {
    const message = '--module goes into the initramfs of --guest; leave out --kernel and --initrd';
    throw new UsageError('E_OPTION', message);
  }
  if (flags.kernel !== undefined) return undefined;
  using progress = new ProgressLine();
  return await parts.buildGuest(
    flags.guest ?? 'minimal',
    given({
      kernel: flags.guestKernel,
      modules: flags.module,
      onProgress: progress.update,
    }),
  );
}
