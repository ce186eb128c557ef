/** The serial port as a byte stream that outlives reboots of the machine. */
import { Duplex } from 'node:stream';
import type { Serial16550 } from '../platform/serial-16550.ts';
import { UnreadOutput } from '../virtio/device/console/unread-output.ts';

/** The guest has not read its input: look again after this long. */
const RETRY_MS = 10;

/**
 * What is written is typed into the guest; what is read the guest printed. The guest never waits for
 * a reader: output that nobody reads is dropped in the end.
 */
export class SerialStream extends Duplex {
  readonly #observe: (bytes: Uint8Array) => void;
  #serial: Serial16550 | undefined;
  #timer: NodeJS.Timeout | undefined;
  readonly #unread: UnreadOutput;

  /**
   * @param observe sees all output as well
   * @param dropping told once, when output is dropped for the first time
   */
  constructor(observe: (bytes: Uint8Array) => void, dropping: () => void = () => {}) {
    super({ decodeStrings: true });
    this.#observe = observe;
    this.#unread = new UnreadOutput(this, dropping);
  }

  /** Bytes of output that were dropped because nobody read them. */
  get dropped(): number {
    return this.#unread.dropped;
  }

  /** Connects to the serial port of a board, or to none. */
  connect(serial: Serial16550 | undefined): void {
    this.collect();
    this.#serial = serial;
  }

  /** The guest printed something. */
  collect(): void {
    const output = this.#serial?.takeOutput();
    if (output === undefined || output.length === 0) return;
    this.#observe(output);
    this.#unread.add(output);
  }

  override _read(): void {
    this.#unread.flow();
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
