/** The parts that `run` and `start` use in the real program. */
import { fileURLToPath } from 'node:url';
import { withModules } from '../guest/guest-modules.ts';
import { buildGuest } from '../guest/guests.ts';
import { probeKvm } from '../kvm/probe.ts';
import { VirtualMachine } from '../machine/virtual-machine.ts';
import { type RunParts, SPEC_VARIABLE } from './run/run.ts';
import { runProgramInLab } from './run/run-in-lab.ts';

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));

export const RUN_PARTS: RunParts = {
  buildGuest: async (name, { modules = [], ...options }) =>
    await withModules(await buildGuest(name, options), modules, options.onProgress),
  createMachine: (options) => VirtualMachine.create(options),
  whyNoKvm() {
    const { usable, detail } = probeKvm();
    return usable ? undefined : detail;
  },
  runInLab(spec, streams, shares) {
    const env = { ...spec.plan.env, [SPEC_VARIABLE]: JSON.stringify(spec) };
    const argv = [process.execPath, MAIN, 'run', '--spec'];
    return runProgramInLab(argv, streams, { shares, env, passEscapes: true });
  },
};
