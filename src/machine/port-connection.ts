/** A conversation over a console port: when it ends, the port stays for the next one. */
import { Duplex } from 'node:stream';

/** Bytes that wait in each direction before the writer is held back. */
const HIGH_WATER_MARK = 64 * 1024;

/**
 * Ends when the program in the guest that opened the port closes it, or is reset away with its
 * driver. Destroying it leaves the port beneath as it is.
 */
export class PortConnection extends Duplex {
  readonly #port: Duplex;
  #guestGone = false;
  readonly #data = (bytes: Buffer): void => {
    if (!this.#guestGone && !this.push(bytes)) this.#port.pause();
  };
  readonly #guestOpen = (open: boolean): void => {
    if (open || this.#guestGone) return;
    this.#guestGone = true;
    this.push(null);
    this.#port.resume();
  };

  /** @param port tells by `guestOpen` when the guest opens and closes it */
  constructor(port: Duplex) {
    super({ highWaterMark: HIGH_WATER_MARK });
    this.#port = port;
    port.on('data', this.#data);
    port.on('guestOpen', this.#guestOpen);
  }

  override _read(): void {
    this.#port.resume();
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    // The guest's answer may come within the port's write: who writes here must not be in the
    // middle of it then.
    process.nextTick(() => {
      if (this.destroyed || this.#guestGone) done();
      else this.#port.write(chunk, done);
    });
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#port.off('data', this.#data);
    this.#port.off('guestOpen', this.#guestOpen);
    this.#port.resume();
    done(error);
  }
}
