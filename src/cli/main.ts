#!/usr/bin/env node
/** The `nodevmm` command. */
import { runProgram } from './program.ts';

runProgram();
