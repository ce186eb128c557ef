/** The program: registers its subcommands, reports errors, ends with their status. */
import { readFileSync } from 'node:fs';
import { constants as os } from 'node:os';
import { Command } from 'commander';
import { registerBenchCommand } from './bench.ts';
import { registerDeviceCommand } from './device.ts';
import { registerDoctorCommand } from './doctor.ts';
import { EXIT_STATUS_HELP } from './exit-status.ts';
import { registerGuestCommand } from './guest.ts';
import { registerInspectCommand } from './inspect.ts';
import { registerLabCommand } from './lab.ts';
import { type RunParts, registerRunCommand, registerStartCommand } from './run/run.ts';
import { registerServeCommand } from './serve.ts';
import { reportError } from './terminal/report-error.ts';
import { registerVmCommand } from './vm.ts';

const manifest = JSON.parse(
  readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'),
) as { version: string; description: string };

/** Ends the process once what was written is out; a pipe's reader may be slow. */
function finish(status: number): void {
  process.exitCode = status;
  process.stdout.write('', () => process.stderr.write('', () => process.exit(status)));
}

function fail(error: unknown): void {
  finish(reportError(error));
}

/** Does what the command line says, and ends the process. @param parts what runs are made of */
export function runProgram(parts: RunParts): void {
  const program = new Command('nodevmm')
    .description(manifest.description)
    .version(manifest.version)
    .enablePositionalOptions()
    .exitOverride()
    // One line, like every other error: what is wrong, and where to look.
    .configureOutput({
      outputError: (text, write) =>
        write(
          `${text
            .trim()
            .replace(/^error: /, 'nodevmm: ')
            .replace(/\s*\n\s*/g, ' ')}; see --help\n`,
        ),
    })
    .addHelpText('after', EXIT_STATUS_HELP);
  registerStartCommand(program, parts, finish);
  registerRunCommand(program, parts, finish);
  registerDeviceCommand(program, finish);
  registerDoctorCommand(program, finish);
  registerGuestCommand(program, finish);
  registerLabCommand(program, finish);
  registerVmCommand(program, finish);
  registerInspectCommand(program, finish);
  registerServeCommand(program, finish);
  registerBenchCommand(program, finish);
  // Whoever read the output has left, as in `nodevmm ... | head`: what SIGPIPE would do.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(128 + os.signals.SIGPIPE);
    fail(error);
  });
  process.on('uncaughtException', fail);
  process.on('unhandledRejection', fail);
  program.parseAsync().catch(fail);
}
