/** `nodevmm lab`: a shell or a command in the emulated KVM host. */
import { Option } from 'commander';
import { UsageError } from '../host/errors.ts';
import { attachKept, keepLab, stopKept } from '../lab/kept.ts';
import { LAB_CPUS, type LabOptions } from '../lab/lab.ts';

import { given } from '../options/option-schema.ts';
import { EXIT_OK, type RegisterCommand } from './exit-status.ts';
import { collect } from './run/device-options.ts';
import { runProgramInLab } from './run/run-in-lab.ts';
import { collectVariable, parseMemory } from './run/run-options.ts';
import { PROCESS_STREAMS } from './terminal/console-io.ts';
import { MESSAGES, reportError } from './terminal/messages.ts';
import { ProgressLine } from './terminal/progress.ts';

/** Exit statuses of shells for a command that cannot be run. */
const NOT_FOUND = 127;
const NOT_EXECUTABLE = 126;

interface LabFlags
  extends Pick<LabOptions, 'cpu' | 'memory' | 'cpus' | 'env' | 'machine' | 'kernelArgs'> {
  readonly share?: readonly string[];
  readonly qemuArg?: readonly string[];
  readonly keep?: boolean;
  readonly stop?: boolean;
}

const EXAMPLES = `
Examples:
  nodevmm lab                        a shell in an emulated PC that has /dev/kvm
  nodevmm lab npm test               one command, with its exit status
  nodevmm lab --env DEBUG=1 ./test   with a variable that is not passed by itself
  nodevmm lab --keep                 boots a lab in the background: what follows starts at once
  nodevmm lab --cpu intel nodevmm run -- uname -a
                                     on kvm_intel, under Bochs: minutes
  nodevmm lab --stop                 ends it (it also ends by itself after an idle hour)`;

/** Adds `lab`. */
export const registerLabCommand: RegisterCommand = (program, finish) => {
  program
    .command('lab')
    .description('open a shell, or run a command, in an emulated KVM host that sees this project')
    .argument('[command...]', 'a program and its arguments; default: a shell')
    .addOption(
      new Option(
        '--cpu <vendor>',
        'CPU vendor: amd, or intel, which is slow and sees copies of files only',
      )
        .choices(LAB_CPUS)
        .default('amd'),
    )
    .option('-m, --memory <size>', 'RAM of the lab (default: 8G; intel: 2G)', parseMemory)
    .option('-c, --cpus <n>', 'CPUs of the lab (default: 2; intel: 1)', Number)
    .option(
      '--share <folder>',
      'another folder that the lab may write to (intel: gets a copy of); may be repeated',
      collect,
    )
    .option(
      '--env <name[=value]>',
      'a variable for the command, as here or with this value; may be repeated',
      collectVariable,
    )
    .option('--keep', 'keep a lab running in the background for later commands')
    .option('--stop', 'end the kept lab')
    .option('--machine <options>', "added to QEMU's -M q35, e.g. kernel-irqchip=split")
    .option('--qemu-arg <argument>', 'another argument for QEMU; may be repeated', collect)
    .option('--kernel-args <text>', "added to the lab's kernel command line")
    .passThroughOptions()
    .addHelpText('after', EXAMPLES)
    .action(async (argv: string[], flags: LabFlags) => finish(await lab(argv, flags)));
};

async function lab(
  argv: readonly string[],
  { keep: kept, stop, share: shares, qemuArg: qemuArgs, ...others }: LabFlags,
): Promise<number> {
  if (stop === true) {
    const stopped = await stopKept(others.cpu);
    MESSAGES.say(stopped ? 'the lab has ended' : 'no lab is kept');
    return EXIT_OK;
  }
  const options: LabOptions = given({ ...others, shares, qemuArgs });
  if (kept === true) await keep(options);
  if (kept === true && argv.length === 0) return EXIT_OK;
  const program = argv.length > 0 ? argv : [process.env.SHELL ?? '/bin/sh'];
  try {
    return await runProgramInLab(program, PROCESS_STREAMS, { ...options, passEscapes: true });
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    const status = { ENOENT: NOT_FOUND, EACCES: NOT_EXECUTABLE }[error.code];
    if (status === undefined) throw error;
    reportError(error);
    return status;
  }
}

async function keep(options: LabOptions): Promise<void> {
  const kept = await attachKept(options.cpu);
  if (kept !== undefined) {
    await kept.close();
    return;
  }
  using progress = new ProgressLine();
  await keepLab(options, progress.update);
}
