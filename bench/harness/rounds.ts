/** Takes samples so that the host's other work affects all subjects alike. */
import { messageOf } from '../../src/host/errors.ts';
import type { Measure, Result, Row } from './measure.ts';

/** Something that is measured separately. */
export interface Contestant {
  readonly name: string;
  /** The others are compared with the best of these. */
  readonly reference: boolean;
  /** The reference that this one is compared with. */
  readonly peer?: string;
}

/** Reports the current step. @param fraction how much of the group is done, 0 to 1 */
export type Progress = (text: string, fraction?: number) => void;

/** The number of rounds, and what the user sees meanwhile. */
export interface Rounds {
  readonly rounds: number;
  readonly progress: Progress;
}

/** The part of a group that some rounds are, as fractions of it. */
export type Span = readonly [begin: number, end: number];

/** One or several samples of one or more measures, in their units, by the measure's name; NaN is none. */
export type Sample = Readonly<Record<string, number | readonly number[]>>;

/** What is measured in some rounds, and how. */
export interface Taking<C extends Contestant> {
  readonly group: string;
  readonly measures: readonly Measure[];
  readonly contestants: readonly C[];
  /** Takes one sample. */
  readonly take: (contestant: C, warmUp: boolean) => Promise<Sample>;
  readonly span?: Span;
  /** Makes a failed contestant usable again, where that is possible. */
  readonly revive?: (contestant: C) => Promise<boolean>;
}

/**
 * Every subject in each round, in turn; the order is reversed from round to round. One extra round
 * runs first, whose samples are discarded: caches fill, and just-in-time compilers compile.
 * A subject that fails is left out from then on, unless it can be revived: then its sample is taken
 * again, and a remark says so.
 */
export async function measureInRounds<C extends Contestant>(
  { group, measures, contestants, take, revive, span = [0, 1] }: Taking<C>,
  { rounds, progress }: Rounds,
): Promise<Result[]> {
  const samples = new Map<C, Sample[]>(contestants.map((one) => [one, []]));
  const failures = new Map<C, string>();
  const remarks = new Map<C, string>();
  const what = measures.filter(({ aspect }) => aspect === undefined).map(({ name }) => name);
  const [begin, end] = span;
  const all = (rounds + 1) * contestants.length;
  let taken = 0;
  for (let round = 0; round <= rounds; round++) {
    const order = round % 2 === 0 ? contestants : contestants.toReversed();
    for (const contestant of order) {
      const fraction = begin + ((end - begin) * taken) / all;
      taken += 1;
      if (failures.has(contestant)) continue;
      const which = round === 0 ? 'warm-up' : `round ${round} of ${rounds}`;
      progress(`${group}: ${what.join(', ')}: ${which}: ${contestant.name}`, fraction);
      const sampled = async (): Promise<void> => {
        const sample = await take(contestant, round === 0);
        if (round > 0) samples.get(contestant)?.push(sample);
      };
      try {
        try {
          await sampled();
        } catch (error) {
          if (!((await revive?.(contestant)) ?? false)) throw error;
          remarks.set(contestant, `measured again with another guest: ${messageOf(error)}`);
          await sampled();
        }
      } catch (error) {
        failures.set(contestant, messageOf(error));
        progress(`${group}: ${contestant.name} failed: ${messageOf(error)}`);
      }
    }
  }
  return measures.map((measure) => ({
    group,
    measure,
    rows: contestants.map((contestant): Row => {
      const { name, reference, peer } = contestant;
      const failure = failures.get(contestant);
      const remark = measure.aspect === undefined ? remarks.get(contestant) : undefined;
      const values = (samples.get(contestant) ?? []).flatMap((sample) => sample[measure.name]);
      return {
        subject: name,
        reference,
        ...(peer === undefined ? {} : { peer }),
        samples: values.filter((value): value is number => Number.isFinite(value)),
        ...(failure === undefined ? {} : { failure }),
        ...(remark === undefined ? {} : { remark }),
      };
    }),
  }));
}
