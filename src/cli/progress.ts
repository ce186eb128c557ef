/** A progress line on stderr for what takes longer than a second. */

const FIRST_AFTER_MS = 1000;
const BAR_WIDTH = 24;
const BAR = '#'.repeat(BAR_WIDTH) + '.'.repeat(BAR_WIDTH);

/** Shows the current step: a bar on a terminal, else one line for each step. */
export class ProgressLine implements Disposable {
  readonly #stream: NodeJS.WriteStream;
  readonly #started = Date.now();
  #printed = '';
  #step = '';

  constructor(stream: NodeJS.WriteStream = process.stderr) {
    this.#stream = stream;
  }

  /**
   * Tells what is being done.
   * @param fraction how much of the whole is done, 0 to 1
   */
  update(step: string, fraction: number): void {
    // What is ready needs no line of its own.
    if (fraction >= 1 || Date.now() - this.#started < FIRST_AFTER_MS) return;
    const done = Math.round(Math.min(Math.max(fraction, 0), 1) * BAR_WIDTH);
    if (this.#stream.isTTY) {
      const bar = BAR.slice(BAR_WIDTH - done, 2 * BAR_WIDTH - done);
      this.#print(`\r\x1b[K[${bar}] ${step}`);
    } else if (step !== this.#step) this.#print(`${step}\n`);
    this.#step = step;
  }

  #print(text: string): void {
    if (text === this.#printed) return;
    this.#printed = text;
    this.#stream.write(text);
  }

  /** Takes the line away. */
  close(): void {
    if (this.#printed !== '' && this.#stream.isTTY) this.#stream.write('\r\x1b[K');
    this.#printed = '';
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
