/** The contract of a group of measures, and what groups without guests share. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import type { Guest } from '../../src/guest/guests.ts';
import type { KernelSeries } from '../../src/guest/kernel.ts';
import { AsyncCleanupStack } from '../../src/host/cleanup-stack.ts';
import { messageOf } from '../../src/host/errors.ts';
import { packageFolder } from '../../src/host/package-folder.ts';
import type { Measure, Result } from '../harness/measure.ts';
import { type Contestant, measureInRounds, type Rounds } from '../harness/rounds.ts';
import type { Named } from '../options.ts';
import type { Selectable, Subject } from '../subjects/subject.ts';

/** The guest images of benchmarks (guests/). */
export type ImageName = 'minimal' | 'tools';

/** How to run a group. */
export interface GroupContext extends Rounds {
  /** How long one sample of throughput takes. */
  readonly seconds: number;
  /** Only the most important measures. */
  readonly quick: boolean;
  /** A folder on a real file system, for disks. */
  readonly folder: string;
  /** Devices of the host for rows that pass one to the guest. */
  readonly vfioNets: readonly string[];
  readonly vfioDisks: readonly string[];
  /** True for a measure to skip: it was not requested, or was taken before. */
  readonly skips: (measure: string) => boolean;
  /** The rows that were requested and that this host can run; the others are recorded. */
  readonly select: <S extends Selectable>(all: readonly S[]) => S[];
  /** Takes results as soon as there are some, so that a lost lab does not lose them too. */
  readonly report: (results: readonly Result[]) => void;
  /** Records what is left out. */
  readonly omit: (what: string, why: string) => void;
  readonly image: (name: ImageName, kernel?: KernelSeries) => Promise<Guest>;
}

/** A group of measures. */
export interface Group extends Named {
  /** The image that it boots: where this host's KVM cannot run Linux, the group runs in the lab. */
  readonly image?: ImageName;
  /** The rows of a group with guests. */
  readonly subjects?: readonly Subject[];
  run(context: GroupContext): Promise<void>;
}

/** What yields the samples of a row; closed at the end of its measure. */
export interface Sampler {
  /** In the measure's unit. */
  sample(seconds: number): number | Promise<number>;
  close?(): void | Promise<void>;
}

/** A measure without guests, and its rows. */
export interface Case {
  readonly measure: Measure;
  /** By name; undefined for one that this host lacks something for. */
  readonly rows: Readonly<Record<string, (() => Sampler | Promise<Sampler>) | undefined>>;
  /** The row that the others are compared with. */
  readonly peer: string;
}

/** Measures cases one after the other. @param perRound samples: of many short ones, some escape the host's other work */
export async function measureCases(
  group: string,
  cases: readonly Case[],
  context: GroupContext,
  perRound: number,
): Promise<void> {
  const wanted = cases.filter(({ measure }) => !context.skips(measure.name));
  for (const [index, { measure, rows, peer }] of wanted.entries()) {
    await using opened = new AsyncCleanupStack();
    const contestants: (Contestant & { readonly sampler: Sampler })[] = [];
    for (const [name, open] of Object.entries(rows)) {
      const sampler = await open?.();
      if (sampler === undefined) continue;
      opened.defer(() => sampler.close?.());
      const reference = name === peer;
      contestants.push({ name, reference, sampler, ...(reference ? {} : { peer }) });
    }
    const take = async ({ sampler }: (typeof contestants)[number]) => {
      const samples: number[] = [];
      for (let i = 0; i < perRound; i++) samples.push(await sampler.sample(context.seconds));
      return { [measure.name]: samples };
    };
    const span = [index / wanted.length, (index + 1) / wanted.length] as const;
    const taking = { group, measures: [measure], contestants, take, span };
    context.report(await measureInRounds(taking, context));
  }
}

/** A program that prints one figure. */
export type PeerProgram = (args: readonly string[], input?: Uint8Array) => number;

/** Compiles the same loop in C, bench/peers/NAME.c. @returns undefined, noted as an omission, without a compiler */
export function compilePeer(
  name: string,
  folder: string,
  { omit }: Pick<GroupContext, 'omit'>,
): PeerProgram | undefined {
  const source = join(packageFolder, 'bench/peers', `${name}.c`);
  const program = join(folder, name);
  try {
    execFileSync('cc', ['-O2', '-o', program, source], { stdio: ['ignore', 'ignore', 'pipe'] });
  } catch (error) {
    omit('C', messageOf(error).split('\n')[0] ?? '');
    return undefined;
  }
  return (args, input) => Number(execFileSync(program, args, { input }));
}
