/**
 * Text that a guest, a peer or a file had a part in, as it may be shown to the user: printable,
 * because a terminal obeys escapes (they move the cursor, rewrite lines, or type for the user),
 * and not so much of it that it fills a log.
 */

/**
 * Everything that a terminal does not just show: control characters (C0, DEL, C1), format characters
 * (among them those that turn the direction of text), line and paragraph separators, lone surrogates.
 */
const NOT_SHOWN = /[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu;

/**
 * The text with each character that is not shown as `\x1b` or `\u{202e}`; line ends and tabs stay.
 * What it returns it leaves as it is.
 */
export function printable(text: string): string {
  return text.replace(/\r+\n/g, '\n').replace(NOT_SHOWN, (character) => {
    if (character === '\n' || character === '\t') return character;
    const code = character.codePointAt(0) ?? 0;
    const hex = code.toString(16);
    return code < 0x100 ? `\\x${hex.padStart(2, '0')}` : `\\u{${hex}}`;
  });
}

/** At most this many lines are logged in a period. */
const PERIOD_MS = 60_000;
const MOST_LINES = 8;

/**
 * Limits the lines of one device, which a guest or a peer can cause: each may repeat only so often in
 * a period. What was left out is counted, and reported before the first line of the next period, or
 * by `flush`.
 */
export class LogLimit {
  readonly #log: (text: string) => void;
  readonly #now: () => number;
  readonly #repeats: number;
  readonly #seen = new Map<string, number>();
  #lines = 0;
  #since = Number.NEGATIVE_INFINITY;
  #leftOut = 0;

  /**
   * @param repeats how often the same text is logged in a period
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
      this.#seen.clear();
      this.#lines = 0;
      this.#since = now;
    }
    const times = this.#seen.get(text) ?? 0;
    if (times === this.#repeats || this.#lines === MOST_LINES) {
      this.#leftOut++;
      return;
    }
    this.#seen.set(text, times + 1);
    this.#lines++;
    this.#log(text);
  }

  /** Reports how many lines were left out since the last report, if any. */
  flush(): void {
    const count = this.#leftOut;
    if (count === 0) return;
    this.#leftOut = 0;
    this.#log(`${count} more ${count === 1 ? 'line' : 'lines'} like these`);
  }
}
