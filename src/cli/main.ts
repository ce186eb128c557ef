#!/usr/bin/env node
/** The `nodevmm` command. */
import { runProgram } from './program.ts';
import { RUN_PARTS } from './run-parts.ts';

runProgram(RUN_PARTS);
