/** A conversation over a console port: when it ends, the port stays for the next one. */
import { Duplex } from 'node:stream';

/** Destroying it leaves the port beneath as it is. */
export class PortConnection extends Duplex {
  readonly #port: Duplex;
  readonly #data = (bytes: Buffer): void => {
    if (!this.push(bytes)) this.#port.pause();
  };

  constructor(port: Duplex) {
    super();
    this.#port = port;
    port.on('data', this.#data);
  }

  override _read(): void {
    this.#port.resume();
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    // The guest's answer may come within the port's write: who writes here must not be in the
    // middle of it then.
    process.nextTick(() => {
      if (this.destroyed) done();
      else this.#port.write(chunk, done);
    });
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#port.off('data', this.#data);
    this.#port.resume();
    done(error);
  }
}
