/** What a fuzz target is: inputs that a grammar makes, and what has to hold after each of them. */
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import type fc from 'fast-check';

/** One of them, by its name on the command line. */
export interface FuzzTarget<Input> {
  readonly name: string;
  readonly input: fc.Arbitrary<Input>;
  open(): Promise<FuzzSubject<Input>>;
}

/** What inputs are tried on. */
export interface FuzzSubject<Input> extends AsyncDisposable {
  /** @throws Error when an invariant does not hold */
  run(input: Input): Promise<void>;
}

/**
 * How many checks, at least a millisecond apart, something gets to end by itself. Not
 * a time: a process that was stopped for a while has not been waiting.
 */
const PATIENCE = 5000;
/** After it, nothing that was closed is still open. */
const REST = 200;

/** Open descriptors, and mappings of files that peers share: none may stay. */
export class Belongings {
  readonly #before: string;

  /** What is open once nothing is closing any more. */
  static async atRest(): Promise<Belongings> {
    await delay(REST);
    return new Belongings();
  }

  private constructor() {
    this.#before = belongings();
  }

  /** Resolves when there are no more than at first. @throws Error when there are */
  async settled(): Promise<void> {
    for (let looks = 0; belongings() !== this.#before; looks++) {
      if (looks === PATIENCE) {
        throw new Error(`leaked: ${belongings()}, at first ${this.#before}`);
      }
      await delay(1);
    }
  }
}

function belongings(): string {
  const maps = readFileSync('/proc/self/maps', 'utf8').split('\n');
  const shared = maps.filter((line) => line.includes('/memfd:')).length;
  return `${readdirSync('/proc/self/fd').length} descriptors, ${shared} shared mappings`;
}

/** Counts repeated lines (src/host/untrusted-text.ts). */
const MORE = /^(\w+: )?\d+ more lines? like these$/;

/** @throws Error unless each line is meant for a user */
export function checkLines(lines: readonly string[], form: RegExp): void {
  for (const line of lines) {
    const isOurFault =
      line.includes('this is a bug') || /\b(Type|Range|Reference)Error\b/.test(line);
    const isKnown = form.test(line) || MORE.test(line);
    if (isOurFault || line.includes('\n') || !isKnown) throw new Error(`reported: ${line}`);
  }
}

/** Resolves with what a promise does. @throws Error when it takes too long */
export async function inTime<T>(work: Promise<T>, what: string): Promise<T> {
  let settled = false;
  const settle = (): void => {
    settled = true;
  };
  work.then(settle, settle);
  for (let looks = 0; !settled; looks++) {
    if (looks === PATIENCE) throw new Error(`${what} hangs`);
    await Promise.race([work.catch(() => {}), delay(1)]);
  }
  return await work;
}
