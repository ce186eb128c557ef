/** Notices that files were saved. It looks at them again and again: that works on every file system. */
import { statSync } from 'node:fs';

const INTERVAL_MS = 200;

/** Watches files until disposed; does not keep the process alive. */
export class FileWatch implements Disposable {
  readonly #timer: NodeJS.Timeout;
  readonly #changed: () => Promise<readonly string[]>;
  /** Each file as it was when it was last told of, and as it was seen last. */
  #told: ReadonlyMap<string, string>;
  #seen: ReadonlyMap<string, string>;
  #busy = false;

  /**
   * @param changed told when files changed and then stayed the same for a moment: one may be caught
   *   half written. Awaited. Returns the files to watch from then on
   */
  constructor(
    files: readonly string[],
    changed: () => Promise<readonly string[]>,
    intervalMs = INTERVAL_MS,
  ) {
    this.#changed = changed;
    this.#told = new Map(files.map((file) => [file, stamp(file)]));
    this.#seen = this.#told;
    this.#timer = setInterval(() => void this.#look(), intervalMs);
    this.#timer.unref();
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  async #look(): Promise<void> {
    if (this.#busy) return;
    const now = new Map([...this.#told.keys()].map((file) => [file, stamp(file)]));
    const differs = (from: ReadonlyMap<string, string>): boolean =>
      [...now].some(([file, is]) => from.get(file) !== is);
    const moving = differs(this.#seen);
    this.#seen = now;
    if (moving || !differs(this.#told)) return;
    this.#busy = true;
    try {
      const files = await this.#changed();
      // Known ones as they were before they were read, so that what came meanwhile is told next.
      this.#told = new Map(files.map((file) => [file, now.get(file) ?? stamp(file)]));
      this.#seen = this.#told;
    } finally {
      this.#busy = false;
    }
  }
}

function stamp(file: string): string {
  const stat = statSync(file, { throwIfNoEntry: false });
  return stat === undefined ? '' : `${stat.mtimeMs} ${stat.size} ${stat.ino}`;
}
