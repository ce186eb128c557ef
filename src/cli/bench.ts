/** `nodevmm bench`: measurements against QEMU. The program is not part of src: it is found at run time. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { UsageError } from '../host/errors.ts';
import { packageFolder } from '../host/package-folder.ts';
import type { RegisterCommand } from './exit-status.ts';

/** The program's interface, as far as it is used here. */
interface BenchProgram {
  /** Reports its own errors. @returns the exit status */
  readonly bench: (args: readonly string[]) => Promise<number>;
}

const PROGRAM = 'dist/bench/command.js';

/** Adds `bench`. */
export const registerBenchCommand: RegisterCommand = (program, finish) => {
  program
    .command('bench')
    .description('measure nodevmm against QEMU here, or compare two measurements')
    .argument('[argument...]')
    // The program has its own options, and its own --help.
    .helpOption(false)
    .allowUnknownOption()
    .passThroughOptions()
    .addHelpText('after', '\nnodevmm bench --help lists what can be measured, with examples.')
    .action(async (args: string[]) => finish(await bench(args)));
};

async function bench(args: readonly string[]): Promise<number> {
  const path = join(packageFolder, PROGRAM);
  if (!existsSync(path)) {
    throw new UsageError(
      'E_BENCH',
      'the npm package has no benchmarks',
      'run them in a checkout, with npm run bench',
    );
  }
  const program = (await import(pathToFileURL(path).href)) as BenchProgram;
  return await program.bench(args);
}
