/** Tries inputs of a target until one breaks what must hold. */
import fc from 'fast-check';
import { messageOf } from '../../src/host/errors.ts';
import type { FuzzTarget } from './target.ts';

/** Which inputs, and how many. */
export interface FuzzRun {
  readonly seed: number;
  /** Of an input that failed before. */
  readonly path?: string;
  readonly inputs?: number;
  readonly seconds?: number;
}

/** What came of it. */
export interface FuzzResult {
  readonly inputs: number;
  /** Several lines: the failure, the smallest input that shows it, and how to have it again. */
  readonly failure?: string;
}

/** Makes a failing input as small as can be. */
export async function fuzz<Input>(
  { name, input, open }: FuzzTarget<Input>,
  { seed, path, inputs, seconds }: FuzzRun,
): Promise<FuzzResult> {
  // An exception of a turn of its own is the fault of the input that is being tried.
  const stray: unknown[] = [];
  const onStray = (error: unknown): void => void stray.push(error);
  process.on('uncaughtException', onStray).on('unhandledRejection', onStray);
  try {
    await using subject = await open();
    let tried = 0;
    const property = fc.asyncProperty(input, async (one) => {
      tried++;
      await subject.run(one);
      const [error] = stray.splice(0);
      if (error !== undefined) throw error;
    });
    const details = await fc.check(property, {
      seed,
      numRuns: inputs ?? Number.MAX_SAFE_INTEGER,
      ...(path === undefined ? {} : { path }),
      ...(seconds === undefined ? {} : { interruptAfterTimeLimit: seconds * 1000 }),
    });
    if (details.counterexample === null) return { inputs: tried };
    const failure = [
      `failed: ${messageOf(details.errorInstance)}`,
      `the smallest input found: ${fc.stringify(details.counterexample)}`,
      `again: npm run fuzz -- ${name} --seed ${seed} --path ${details.counterexamplePath}`,
    ];
    return { inputs: tried, failure: failure.join('\n') };
  } finally {
    process.off('uncaughtException', onStray).off('unhandledRejection', onStray);
  }
}
