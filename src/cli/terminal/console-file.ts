/** A file for a console's output. What cannot be written is lost; the guest continues. */
import { close, write } from 'node:fs';
import { Writable } from 'node:stream';
import { openOutputFile, reasonOf } from '../../host/output-file.ts';
import { dropNotice } from '../../virtio/device/console/unread-output.ts';

/** The retry interval for a full FIFO. */
const RETRY_MS = 20;
/** The number of retries, once the run has ended. */
const LAST_TRIES = 25;

/** How to write it, and where to report trouble. */
export interface ConsoleFileOptions {
  readonly path: string;
  /** Append to the file. */
  readonly append: boolean;
  log(text: string): void;
}

/**
 * Continues after errors: a full disk may have room again, a FIFO a new reader. Then a line in the file
 * reports how much is missing there. An error is reported once.
 */
export class ConsoleFile extends Writable {
  readonly #fd: number;
  readonly #options: ConsoleFileOptions;
  /** Bytes lost, in total and since the last successful write. */
  #lost = 0;
  #gap = 0;
  #ending = false;
  #tries = 0;

  /** @throws UsageError when the file cannot be opened */
  constructor(options: ConsoleFileOptions) {
    super();
    this.#options = options;
    this.#fd = openOutputFile('the console', options.path, 'E_CONSOLE_FILE', options.append);
  }

  /** Writes the rest, and closes it. */
  async finish(): Promise<void> {
    this.#ending = true;
    const closed = new Promise<void>((resolve) => this.once('close', () => resolve()));
    this.end();
    await closed;
    const { path, log } = this.#options;
    if (this.#lost > 0) log(`${this.#lost} bytes of console output are missing from ${path}`);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    if (this.#gap === 0) {
      this.#put(chunk, 0, done);
      return;
    }
    const notice = Buffer.from(dropNotice(this.#gap));
    this.#put(Buffer.concat([notice, chunk]), notice.length, done);
  }

  /** @param notice bytes at the start that report a gap */
  #put(bytes: Buffer, notice: number, done: () => void): void {
    write(this.#fd, bytes, 0, bytes.length, null, (error, written) => {
      if (error === null) {
        if (written >= notice) this.#gap = 0;
        if (written < bytes.length) {
          this.#put(bytes.subarray(written), Math.max(notice - written, 0), done);
        } else done();
      } else if (error.code === 'EAGAIN' && !(this.#ending && ++this.#tries > LAST_TRIES)) {
        setTimeout(() => this.#put(bytes, notice, done), RETRY_MS);
      } else {
        this.#lose(bytes.length - notice, error);
        done();
      }
    });
  }

  #lose(bytes: number, error: Error): void {
    const first = this.#lost === 0;
    this.#lost += bytes;
    this.#gap += bytes;
    if (!first) return;
    const { path, log } = this.#options;
    log(
      `the console cannot be written to ${path}: ${reasonOf(error)}; its output is lost meanwhile`,
    );
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    // Some file systems report a full disk only now.
    close(this.#fd, (failed) => {
      const { path, log } = this.#options;
      if (failed) log(`the console's file ${path} may be incomplete: ${reasonOf(failed)}`);
      done(error);
    });
  }
}
