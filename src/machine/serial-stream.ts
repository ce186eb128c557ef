/** The serial port as a byte stream that outlives reboots of the machine. */
import { Duplex } from 'node:stream';
import type { Serial16550 } from '../platform/serial-16550.ts';

/** The guest has not read its input: look again after this long. */
const RETRY_MS = 10;
/** While less than this waits to be read, a port that is disconnected gives all its output. */
const LAST_WORDS = 1024 * 1024;

/** What is written is typed into the guest; what is read the guest printed. */
export class SerialStream extends Duplex {
  readonly #observe: (bytes: Uint8Array) => void;
  #serial: Serial16550 | undefined;
  #timer: NodeJS.Timeout | undefined;
  #full = false;

  /** @param observe sees all output as well */
  constructor(observe: (bytes: Uint8Array) => void) {
    super({ decodeStrings: true });
    this.#observe = observe;
  }

  /** Connects to the serial port of a board, or to none. */
  connect(serial: Serial16550 | undefined): void {
    if (this.readableLength < LAST_WORDS) this.#take();
    this.#serial = serial;
  }

  /** The guest printed something. */
  collect(): void {
    if (!this.#full) this.#take();
  }

  #take(): void {
    const output = this.#serial?.takeOutput();
    if (output === undefined || output.length === 0) return;
    this.#observe(output);
    // Nobody will ever read a stream that was destroyed.
    this.#full = !this.destroyed && !this.push(output);
  }

  override _read(): void {
    if (!this.#full) return;
    this.#full = false;
    this.collect();
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    const rest = chunk.subarray(this.#serial?.pushInput(chunk) ?? 0);
    if (rest.length === 0) {
      done();
      return;
    }
    this.#timer = setTimeout(() => this._write(rest, _encoding, done), RETRY_MS).unref();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    clearTimeout(this.#timer);
    done(error);
  }
}
