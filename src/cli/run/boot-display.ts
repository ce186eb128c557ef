/** Shows progress until the guest's console has output of its own. */
import type { Duplex } from 'node:stream';
import { printable } from '../../host/untrusted-text.ts';
import type { ConsoleOutput } from '../terminal/console-io.ts';
import type { ConsoleTarget } from './run-options.ts';

/** A console silent for longer than this may not be the one that the guest uses. */
const SILENCE_MS = 5000;
const LOOK_MS = 1000;
/** Characters shown of the serial port's last line. */
const LINE_MAX = 80;

/** Where to show it. */
export interface BootProgress {
  update(step: string): void;
  close(): void;
}

/** What it monitors. */
export interface BootConsoles {
  readonly console: Duplex;
  readonly serial: ConsoleOutput;
  readonly serialTarget: ConsoleTarget;
}

/** From the start of a guest to its console's first byte. */
export class BootDisplay implements Disposable {
  readonly #consoles: BootConsoles;
  readonly #progress: BootProgress;
  readonly #now: () => number;
  readonly #started: number;
  readonly #timer: NodeJS.Timeout;
  readonly #close = (): void => this[Symbol.dispose]();

  /** @param now milliseconds of a monotonic clock */
  constructor(
    consoles: BootConsoles,
    progress: BootProgress,
    now: () => number = () => performance.now(),
  ) {
    this.#consoles = consoles;
    this.#progress = progress;
    this.#now = now;
    this.#started = now();
    progress.update('guest: booting');
    consoles.console.prependOnceListener('data', this.#close);
    this.#timer = setInterval(() => this.look(), LOOK_MS).unref();
  }

  /** Checks whether the guest prints on its serial port only. */
  look(): void {
    const { serial, serialTarget } = this.#consoles;
    if (serial.bytes === 0 || this.#now() - this.#started < SILENCE_MS) return;
    const where =
      serialTarget.to === 'file'
        ? `see ${serialTarget.path}`
        : 'to see it here: --console none --serial tty';
    this.#progress.update(
      `guest: nothing on hvc0 yet (${where}); ttyS0 says: ${lastLine(serial.tail)}`,
    );
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#consoles.console.off('data', this.#close);
    this.#progress.close();
  }
}

function lastLine(tail: string): string {
  const line = tail.split(/[\r\n]+/).findLast((text) => text.trim() !== '');
  return printable(line ?? '').slice(-LINE_MAX);
}
