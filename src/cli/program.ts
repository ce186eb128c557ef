/** The program: registers its subcommands, reports errors, ends with their status. */
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { buildGuest, guestName } from '../guest/guests.ts';
import { withModules } from '../guest/own-modules.ts';
import { packageManifest } from '../host/package-folder.ts';
import { printable } from '../host/untrusted-text.ts';
import { knownKvm } from '../kvm/probe.ts';
import { LocalMachine } from '../machine/local-machine.ts';
import { given } from '../options/option-schema.ts';
import { registerBenchCommand } from './bench.ts';
import { registerDeviceCommand } from './device.ts';
import { registerDoctorCommand } from './doctor.ts';
import { EXIT_STATUS_HELP } from './exit-status.ts';
import { registerGuestCommand } from './guest.ts';
import { registerInspectCommand } from './inspect.ts';
import { registerLabCommand } from './lab.ts';
import { type RunParts, registerRunCommand, registerStartCommand } from './run/run.ts';
import { runProgramInLab } from './run/run-in-lab.ts';
import { registerServeCommand } from './serve.ts';
import { reportError } from './terminal/messages.ts';
import { finish, guardStandardStreams } from './terminal/standard-streams.ts';
import { registerVmCommand } from './vm.ts';

const manifest = packageManifest();

function fail(error: unknown): void {
  finish(reportError(error));
}

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));

/** What `run` and `start` use. */
export const RUN_PARTS: RunParts = {
  buildGuest: async (name, { modules = [], ...options }) =>
    await withModules(await buildGuest(guestName(name), options), modules, options.onProgress),
  createMachine: (options) => LocalMachine.create(options),
  whyNoKvm() {
    const { usable, detail } = knownKvm();
    return usable ? undefined : detail;
  },
  runInLab(spec, streams, shares) {
    const argv = [process.execPath, MAIN, 'run', '--spec'];
    const options = given({
      shares,
      env: spec.plan.env,
      passEscapes: true,
      data: JSON.stringify(spec),
    });
    return runProgramInLab(argv, streams, options);
  },
};

/** Runs the command line, and ends the process. @param parts tests substitute their own */
export function runProgram(parts: RunParts = RUN_PARTS): void {
  const program = new Command('nodevmm')
    .description(manifest.description)
    .version(manifest.version)
    .enablePositionalOptions()
    .exitOverride()
    // One line, like every other error: what is wrong, and where to read more.
    .configureOutput({
      outputError: (text, write) =>
        write(
          `${printable(text)
            .trim()
            .replace(/^error: /, 'nodevmm: ')
            .replace(/\s*\n\s*/g, ' ')}; see --help\n`,
        ),
    })
    .addHelpText('after', EXIT_STATUS_HELP);
  const commands = [
    registerStartCommand(parts),
    registerRunCommand(parts),
    registerDeviceCommand,
    registerDoctorCommand,
    registerGuestCommand,
    registerLabCommand,
    registerVmCommand,
    registerInspectCommand,
    registerServeCommand,
    registerBenchCommand,
  ];
  for (const register of commands) register(program, finish);
  guardStandardStreams(fail);
  process.on('uncaughtException', fail);
  process.on('unhandledRejection', fail);
  program.parseAsync().catch(fail);
}
