/** What the user sees while it runs: a line with a bar on a terminal, else a line for each step. */
import { ProgressLine } from '../../src/cli/terminal/progress.ts';
import { printable } from '../../src/host/untrusted-text.ts';

/** Progress over several groups, one after the other. */
export class BenchProgress implements Disposable {
  readonly #line: ProgressLine | undefined;
  readonly #groups: number;
  #done = 0;

  /** @param groups how many groups there will be */
  constructor(groups: number) {
    this.#groups = groups;
    this.#line = process.stderr.isTTY ? new ProgressLine() : undefined;
  }

  /** Reports the current step. @param fraction of the group; without, a remark that stays */
  tell(said: string, fraction?: number): void {
    const text = printable(said);
    if (this.#line === undefined) {
      process.stderr.write(`bench: ${Math.round(performance.now() / 1000)} s: ${text}\n`);
    } else if (fraction === undefined) {
      process.stderr.write(`\r\x1b[Kbench: ${text}\n`);
    } else {
      this.#line.update(text, (this.#done + Math.min(fraction, 0.999)) / this.#groups);
    }
  }

  /** A group is done. */
  next(): void {
    this.#done += 1;
  }

  [Symbol.dispose](): void {
    this.#line?.close();
  }
}
