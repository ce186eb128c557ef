/** Runs groups on this host. */
import { tmpdir } from 'node:os';
import { buildGuest } from '../src/guest/guests.ts';
import type { Group, GroupContext } from './groups/group.ts';
import type { Result } from './harness/measure.ts';
import type { Omission } from './harness/report.ts';
import type { Progress } from './harness/rounds.ts';
import { type BenchOptions, isNamed } from './options.ts';

/** Gets results as they come. */
export interface Sink {
  readonly progress: Progress;
  readonly report: (results: readonly Result[]) => void;
  readonly omit: (omission: Omission) => void;
}

/** Runs one group. */
export async function runHere(group: Group, options: BenchOptions, sink: Sink): Promise<void> {
  const { rounds, seconds, quick, subjects, variants, folder, measured } = options;
  const context: GroupContext = {
    ...{ rounds, seconds, quick },
    wanted: { subjects, variants },
    folder: folder ?? tmpdir(),
    progress: sink.progress,
    skips: (measure) => measured.includes(measure) || !isNamed(measure, options.measures),
    report: sink.report,
    omit: (what, why) => sink.omit({ group: group.name, what, why }),
    image: (name, kernel) =>
      buildGuest(name, {
        ...(kernel === undefined ? {} : { kernel }),
        onProgress: (step) => sink.progress(step, 0),
      }),
  };
  await group.run(context);
}
