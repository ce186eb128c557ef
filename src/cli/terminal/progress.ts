/** A progress line on stderr for what takes longer than a second. */
import { Closeable } from '../../host/cleanup-stack.ts';
import { printable } from '../../host/untrusted-text.ts';

const FIRST_AFTER_MS = 1000;
const TICK_MS = 250;
const BAR_WIDTH = 24;
const DEFAULT_WIDTH = 120;
const BAR = '#'.repeat(BAR_WIDTH) + '.'.repeat(BAR_WIDTH);

/** Shows the current step: a bar and the seconds on a terminal, else one line for each step. */
export class ProgressLine extends Closeable {
  readonly #stream: NodeJS.WriteStream;
  readonly #started = Date.now();
  readonly #timer: NodeJS.Timeout;
  #printed = '';
  #step = '';
  #bar = '';

  constructor(stream: NodeJS.WriteStream = process.stderr) {
    super();
    this.#stream = stream;
    this.#timer = setInterval(() => this.#show(), TICK_MS).unref();
  }

  /**
   * Reports the current step.
   * @param fraction how much of the whole is done, 0 to 1; undefined when unknown
   */
  readonly update = (step: string, fraction?: number): void => {
    // A finished step needs no line of its own.
    if (fraction !== undefined && fraction >= 1) return;
    this.#step = printable(step).replaceAll('\n', ' ');
    this.#bar = '';
    if (fraction !== undefined) {
      const done = Math.round(Math.max(fraction, 0) * BAR_WIDTH);
      this.#bar = `[${BAR.slice(BAR_WIDTH - done, 2 * BAR_WIDTH - done)}] `;
    }
    this.#show();
  };

  #show(): void {
    const ms = Date.now() - this.#started;
    if (this.#step === '' || ms < FIRST_AFTER_MS) return;
    if (this.#stream.isTTY) {
      const seconds = ` ... ${Math.floor(ms / 1000)} s`;
      // One line only: a wrapped line cannot be erased.
      const room = (this.#stream.columns || DEFAULT_WIDTH) - 1 - seconds.length;
      this.#print(`\r\x1b[K${`${this.#bar}${this.#step}`.slice(0, room)}${seconds}`);
    } else {
      this.#print(`${this.#step}\n`);
    }
  }

  #print(text: string): void {
    // A stopped terminal shows the latest line once it resumes.
    if (text === this.#printed || this.#stream.writableNeedDrain) return;
    this.#printed = text;
    this.#stream.write(text);
  }

  /** Erases the line. */
  close(): void {
    clearInterval(this.#timer);
    if (this.#printed !== '' && this.#stream.isTTY) this.#stream.write('\r\x1b[K');
    this.#printed = '';
    this.#step = '';
  }
}
