/** Takes samples so that what else the host does hits all subjects alike. */
import type { Measure, Result, Row } from './measure.ts';
import { countUsage, type Usage } from './usage.ts';

/** Something that is measured by itself. */
export interface Contestant {
  readonly name: string;
  readonly reference: boolean;
}

/** How often, and what the person sees meanwhile. */
export interface Rounds {
  readonly rounds: number;
  readonly progress: (text: string) => void;
}

/** One sample of one or more measures, in their units, by the measure's name. */
export type Sample = Readonly<Record<string, number>>;

/**
 * Every subject in each round, in turn; the order is reversed from round to round. One round more
 * goes before, whose samples are discarded: caches fill, and just-in-time compilers compile.
 * A subject that fails is left out from then on.
 * @param take takes one sample; `pid` tells which process to watch meanwhile
 */
export async function measureInRounds<C extends Contestant>(
  group: string,
  measures: readonly Measure[],
  contestants: readonly C[],
  { rounds, progress }: Rounds,
  take: (contestant: C, warmUp: boolean) => Promise<Sample>,
  pid?: (contestant: C) => number,
): Promise<Result[]> {
  const samples = new Map<C, Sample[]>(contestants.map((one) => [one, []]));
  const failures = new Map<C, string>();
  const usages = new Map<C, Usage>();
  for (let round = 0; round <= rounds; round++) {
    const order = round % 2 === 0 ? contestants : contestants.toReversed();
    for (const contestant of order) {
      if (failures.has(contestant)) continue;
      const names = measures.map(({ name }) => name).join(', ');
      const which = round === 0 ? 'warm-up' : `round ${round} of ${rounds}`;
      progress(`${group}: ${names}: ${which}: ${contestant.name}`);
      try {
        const stop = pid === undefined ? undefined : countUsage(pid(contestant));
        const sample = await take(contestant, round === 0);
        const usage = stop?.();
        if (round > 0) samples.get(contestant)?.push(sample);
        if (usage !== undefined) usages.set(contestant, usage);
      } catch (error) {
        const why = error instanceof Error ? error.message : String(error);
        failures.set(contestant, why);
        progress(`${group}: ${contestant.name} failed: ${why}`);
      }
    }
  }
  return measures.map((measure) => ({
    group,
    measure,
    rows: contestants.map((contestant): Row => {
      const failure = failures.get(contestant);
      const usage = usages.get(contestant);
      const values = (samples.get(contestant) ?? []).map((sample) => sample[measure.name]);
      return {
        subject: contestant.name,
        reference: contestant.reference,
        samples: values.filter((value) => value !== undefined),
        ...(usage === undefined ? {} : { usage }),
        ...(failure === undefined ? {} : { failure }),
      };
    }),
  }));
}
