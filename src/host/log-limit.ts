/** Keeps lines that a guest or a peer can cause from filling the log of the person who runs it. */

/** In this time so many lines are said. */
const PERIOD_MS = 60_000;
const MOST_LINES = 8;

/**
 * The lines of one device, each of them so often in a period. What was left out is counted, and told
 * with the first line of the next one, or by `flush`.
 */
export class LogLimit {
  readonly #log: (text: string) => void;
  readonly #now: () => number;
  readonly #repeats: number;
  readonly #said = new Map<string, number>();
  #lines = 0;
  #since = Number.NEGATIVE_INFINITY;
  #leftOut = 0;

  /**
   * @param repeats how often the same text is said in a period
   * @param now milliseconds of a clock that never goes back
   */
  constructor(
    log: (text: string) => void,
    repeats = 1,
    now: () => number = () => performance.now(),
  ) {
    this.#log = log;
    this.#repeats = repeats;
    this.#now = now;
  }

  say(text: string): void {
    const now = this.#now();
    if (now - this.#since >= PERIOD_MS) {
      this.flush();
      this.#said.clear();
      this.#lines = 0;
      this.#since = now;
    }
    const times = this.#said.get(text) ?? 0;
    if (times === this.#repeats || this.#lines === MOST_LINES) {
      this.#leftOut++;
      return;
    }
    this.#said.set(text, times + 1);
    this.#lines++;
    this.#log(text);
  }

  /** Tells how many lines were left out since the last time, if any. */
  flush(): void {
    const count = this.#leftOut;
    if (count === 0) return;
    this.#leftOut = 0;
    this.#log(`${count} more ${count === 1 ? 'line' : 'lines'} like these`);
  }
}
