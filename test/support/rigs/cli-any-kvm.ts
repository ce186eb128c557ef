/** The program, less its check that KVM runs Linux: kernels of a few bytes run on any KVM. */
import { runProgram } from '../../../src/cli/program.ts';
import { RUN_PARTS } from '../../../src/cli/run-parts.ts';

runProgram({ ...RUN_PARTS, whyNoKvm: () => undefined });
