/** What came of a whole run. */
import type { Tally } from './tally.ts';

/** More files than this that pass only when run again hide a fault: a run in CI fails. */
export const RETRIED_MAX = 2;

/** Counts of all files, and how they are reported at the end. */
export class Totals {
  passed = 0;
  failed = 0;
  skipped = 0;
  readonly #retried: string[] = [];

  add({ passed, failures, skips }: Pick<Tally, 'passed' | 'failures' | 'skips'>): void {
    this.passed += passed;
    this.failed += failures.length;
    this.skipped += skips.length;
  }

  /** A file failed, and passed when it was run again. @param tries how often it ran */
  addRetried(source: string, tries: number): void {
    this.#retried.push(`again   ${source}: passed only on try ${tries}`);
  }

  /** Why too many files had to be run again; undefined when they are few. */
  get tooManyRetried(): string | undefined {
    if (this.#retried.length <= RETRIED_MAX) return undefined;
    return `${this.#retried.length} files passed only when run again; CI allows ${RETRIED_MAX}`;
  }

  /** The files that passed only when run again, and the counts as the last line. */
  get closing(): string[] {
    const skipped = this.skipped > 0 ? `, ${this.skipped} skipped` : '';
    const files = this.#retried.length;
    const retried = files > 0 ? `, ${files} ${files === 1 ? 'file' : 'files'} retried` : '';
    const counts = `${this.passed} passed, ${this.failed} failed${skipped}${retried}`;
    return [...this.#retried, '', counts];
  }
}
