/** `nodevmm run` and `nodevmm start`: a machine from the command line, here or in the lab. */
import path from 'node:path';
import type { Command } from 'commander';
import { type ControlledMachine, ControlServer } from '../../control/server.ts';
import type { KernelSeries } from '../../guest/kernel.ts';
import { UsageError } from '../../host/errors.ts';
import { backendOf, DEVICE_TYPES } from '../../machine/devices/device-types.ts';
import type { MachineOptions } from '../../machine/options.ts';
import { wantedOf } from '../../machine/resolve-options.ts';
import { fieldsOf } from '../../options/option-schema.ts';
import type { TraceSummary } from '../../virtio/observe/trace/trace-collector.ts';
import { EXIT_STATUS_HELP } from '../exit-status.ts';
import { StopSignals } from '../stop-signals.ts';
import { PROCESS_STREAMS, type RunStreams } from '../terminal/console-io.ts';
import { MESSAGES } from '../terminal/messages.ts';
import { ProgressLine } from '../terminal/progress.ts';
import { type RunnableMachine, type RunPlan, runMachine } from './run-machine.ts';
import {
  addMachineOptions,
  type BootImage,
  machineOptions,
  type RunFlags,
  wantsSummary,
} from './run-options.ts';
import { traceTable } from './trace-table.ts';

/** What a run that is traced needs of a machine. */
interface TracedMachine {
  readonly traceSummary?: TraceSummary | undefined;
}

/** What a run is put together from; tests give their own. */
export interface RunParts {
  createMachine(
    options: MachineOptions,
  ): Promise<RunnableMachine & ControlledMachine & TracedMachine & AsyncDisposable>;
  /** Finds or makes a guest image. */
  buildGuest(
    name: string,
    options: {
      readonly kernel?: KernelSeries;
      /** Kernel modules that it gets besides its own. */
      readonly modules?: readonly string[];
      readonly onProgress: (step: string, fraction: number) => void;
    },
  ): Promise<BootImage>;
  /** Why this host's KVM cannot run Linux, in one line; undefined when it can. */
  whyNoKvm(): string | undefined;
  /**
   * Runs this program with these arguments in the emulated KVM host.
   * @param shares folders that it writes to
   * @param env variables that it gets besides those that every program in the lab has
   * @returns its exit status
   */
  runInLab(
    args: readonly string[],
    streams: RunStreams,
    shares: readonly string[],
    env: Readonly<Record<string, string>>,
  ): Promise<number>;
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

/**
 * Adds `run`.
 * @param finish gets the exit status
 */
export function registerRunCommand(
  program: Command,
  parts: RunParts,
  finish: (status: number) => void,
): void {
  const command = program
    .command('run')
    .description('boot a guest; with -- COMMAND, run one command in it')
    .argument('[command...]', 'after --: a program in the guest, and its arguments')
    .addHelpText('after', EXAMPLES + EXIT_STATUS_HELP);
  addMachineOptions(command).action(async (argv: string[], flags: RunFlags) => {
    if (argv.length > 0 && !process.argv.includes('--')) {
      throw new UsageError(
        'E_OPTION',
        `${argv[0]} is no option; a command for the guest goes after --, as in: nodevmm run -- ${argv[0]}`,
      );
    }
    finish(await run(parts, flags, argv));
  });
}

/** Adds `start`. @param finish gets the exit status */
export function registerStartCommand(
  program: Command,
  parts: RunParts,
  finish: (status: number) => void,
): void {
  const command = program
    .command('start')
    .description('boot the minimal guest and open its console (what `npm start` does)')
    .addHelpText('after', EXIT_STATUS_HELP);
  addMachineOptions(command).action(async (flags: RunFlags) => {
    MESSAGES.say('booting Linux; Ctrl-A x leaves, Ctrl-A h helps');
    finish(await run(parts, flags, []));
  });
}

/** One run, here or in the lab. @returns the exit status */
async function run(parts: RunParts, flags: RunFlags, argv: readonly string[]): Promise<number> {
  // Bad usage shows at once, before anything is built or booted.
  const wanted = machineOptions(flags, { kernel: '-' });
  const inLab = takesLab(parts, flags);
  const image = await findImage(parts, flags);
  if (inLab) {
    const { env = {} } = flags;
    const args = labArguments(process.argv.slice(2), image, env);
    return await parts.runInLab(args, PROCESS_STREAMS, sharedFolders(wanted, flags), env);
  }
  // Until the very end: also what the machine holds is given back by threads that may be busy.
  using signals = new StopSignals();
  await using vm = await parts.createMachine(machineOptions(flags, image));
  using _control = await ControlServer.open(vm, flags.name ?? String(process.pid));
  const status = await runMachine(vm, planOf(flags, argv), PROCESS_STREAMS, signals);
  const { traceSummary } = vm;
  if (traceSummary !== undefined && wantsSummary(flags)) {
    MESSAGES.show(traceTable(traceSummary).join('\n'));
  }
  return status;
}

/** @throws UsageError when neither the host nor the lab may be taken */
function takesLab(parts: RunParts, flags: RunFlags): boolean {
  if (flags.lab === true) return true;
  const why = parts.whyNoKvm();
  if (why === undefined) return false;
  if (flags.lab === false) {
    throw new UsageError('E_KVM', `${why}; leave out --no-lab to use the lab`);
  }
  MESSAGES.say(`${why}; falling back to the lab, an emulated KVM host`);
  return true;
}

/**
 * The command line for the inside of the lab: the same run, with the guest that was built outside.
 * @param args what this program was called with
 * @param image undefined when `args` name the kernel
 * @param env the variables of --env, with the values that they have here
 */
export function labArguments(
  args: readonly string[],
  image: BootImage | undefined,
  env: Readonly<Record<string, string>> = {},
): string[] {
  const split = args.indexOf('--');
  const outside = split < 0 ? args : args.slice(0, split);
  const own = without('--env', without('--module', outside));
  const command = split < 0 ? [] : args.slice(split);
  const options = own.slice(1).filter((arg) => arg !== '--lab');
  const built = image === undefined ? [] : ['--kernel', image.kernel];
  if (image?.initrd !== undefined && !own.some((arg) => /^--initrd(=|$)/.test(arg))) {
    built.push('--initrd', image.initrd);
  }
  const variables = Object.entries(env).flatMap(([name, value]) => ['--env', `${name}=${value}`]);
  return ['run', ...options, ...variables, ...built, '--no-lab', ...command];
}

/** The modules are in the image that was made here, and the variables' values are known here. */
function without(option: string, args: readonly string[]): string[] {
  return args.filter(
    (arg, index) => arg !== option && !arg.startsWith(`${option}=`) && args[index - 1] !== option,
  );
}

/**
 * The folders that the lab has to share: those that a run writes to, and those where it has to see
 * what is written meanwhile.
 */
export function sharedFolders(options: MachineOptions, flags: RunFlags): string[] {
  const ofDevices = DEVICE_TYPES.flatMap((type) =>
    wantedOf(type, options).flatMap((device) =>
      fieldsOf(backendOf(type, device).options).flatMap(({ path: [name = ''], details }) => {
        const file = device[name];
        if (details.path === undefined || typeof file !== 'string') return [];
        if (details.shared?.(device) === false) return [];
        return details.path === 'folder' ? path.resolve(file) : folderOf(file);
      }),
    ),
  );
  const consoles = [flags.console, flags.serial].flatMap((target) =>
    target?.to === 'file' ? folderOf(target.path) : [],
  );
  const trace = options.trace?.file;
  return [
    ...new Set([...ofDevices, ...consoles, ...(trace === undefined ? [] : [folderOf(trace)])]),
  ];
}

const folderOf = (file: string): string => path.dirname(path.resolve(file));

async function findImage(parts: RunParts, flags: RunFlags): Promise<BootImage | undefined> {
  if (flags.module !== undefined && (flags.kernel ?? flags.initrd) !== undefined) {
    const message = '--module goes into the initramfs of --guest; leave out --kernel and --initrd';
    throw new UsageError('E_OPTION', message);
  }
  if (flags.kernel !== undefined) return undefined;
  using progress = new ProgressLine();
  return await parts.buildGuest(flags.guest ?? 'minimal', {
    ...(flags.guestKernel === undefined ? {} : { kernel: flags.guestKernel }),
    ...(flags.module === undefined ? {} : { modules: flags.module }),
    onProgress: (step, fraction) => progress.update(step, fraction),
  });
}

function planOf(flags: RunFlags, argv: readonly string[]): RunPlan {
  const hasCommand = argv.length > 0;
  return {
    console: flags.console ?? { to: hasCommand ? 'none' : 'tty' },
    serial: flags.serial ?? { to: 'none' },
    ...(hasCommand ? { command: argv } : {}),
    ...(flags.env === undefined ? {} : { env: flags.env }),
  };
}
