/** The program, less its check that KVM runs Linux: kernels of a few bytes run on any KVM. */
import { RUN_PARTS, runProgram } from '../../../src/cli/program.ts';

runProgram({ ...RUN_PARTS, whyNoKvm: () => undefined });
