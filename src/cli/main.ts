#!/usr/bin/env node
/** The `nodevmm` command. */
import { NodeVmmError } from '../host/errors.ts';

// Not imported at once: what is refused then has no one to report it in one line.
const starting = import('./program.ts').then(({ runProgram }) => runProgram());
starting.catch((error: unknown) => {
  if (!(error instanceof NodeVmmError)) throw error;
  process.stderr.write(`nodevmm: ${error.message}\n`);
  process.exitCode = 2;
});
