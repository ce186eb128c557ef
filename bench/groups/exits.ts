/** What a PIO exit costs over the same loop in C: bench/exit-cost.ts, as a process of its own. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Measure } from '../harness/measure.ts';
import type { Group, GroupContext } from './group.ts';

const PROGRAM = fileURLToPath(new URL('../exit-cost.js', import.meta.url));
const SAMPLES_PER_ROUND = 100;
const EXITS = 300;
const MEASURE: Measure = { name: 'PIO exit', unit: 'us', better: 'lower', by: 'lowest' };
/** The row that the others are set against. */
const PEER = 'C';

/** What exit-cost prints with `--json`. */
export interface ExitCosts {
  readonly variants: readonly { readonly name: string; readonly samplesNs: readonly number[] }[];
}

export const exitsGroup: Group = {
  name: 'exits',
  summary: 'a PIO exit through the exit loop, and in C',
  guests: false,
  images: () => [],
  async run({ rounds, progress, report, skips }: GroupContext): Promise<void> {
    if (skips(MEASURE.name)) return;
    progress('exits: measuring', 0);
    const args = [PROGRAM, String(rounds * SAMPLES_PER_ROUND), String(EXITS), '--json'];
    const { stdout } = await promisify(execFile)(process.execPath, args, { maxBuffer: 2 ** 24 });
    const { variants } = JSON.parse(stdout) as ExitCosts;
    const rows = variants.map(({ name, samplesNs }) => ({
      subject: name,
      reference: name === PEER,
      samples: samplesNs.map((ns) => ns / 1e3),
    }));
    report([{ group: 'exits', measure: MEASURE, rows }]);
  },
};
