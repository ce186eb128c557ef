/** Streams of the guest's files: the input or output of a process of the agent's (guests/agent/files.c). */
import { Readable, Writable } from 'node:stream';
import type { GuestProcess } from './command.ts';
import { protocolError } from './protocol.ts';

/** The error for a helper's status, or undefined for success. */
export type Failure = (status: number) => Error | undefined;

/** A helper's output; an error after its last byte when the helper failed. */
export class GuestReadStream extends Readable {
  readonly #helper: GuestProcess;
  #wanted = false;

  constructor(helper: GuestProcess, failure: Failure) {
    super();
    this.#helper = helper;
    helper.stdin.end();
    helper.stdout.on('readable', () => this.#pull());
    helper.stdout.on('end', () => {
      helper.exit.then(
        ({ exitCode }) => {
          const error = failure(exitCode);
          if (error !== undefined) this.destroy(error);
          else if (!this.destroyed) this.push(null);
        },
        () => {},
      );
    });
    helper.exit.catch((error: Error) => this.destroy(error));
  }

  override _read(): void {
    this.#wanted = true;
    this.#pull();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    // Does nothing once it has ended.
    this.#helper.kill('SIGKILL');
    this.#helper.stdout.destroy();
    done(error);
  }

  #pull(): void {
    while (this.#wanted) {
      const chunk = this.#helper.stdout.read() as Buffer | null;
      if (chunk === null) return;
      this.#wanted = this.push(chunk);
    }
  }
}

/** A helper's input; `finish` comes once the helper has written all of it. */
export class GuestWriteStream extends Writable {
  readonly #helper: GuestProcess;
  /** Settles with the helper's error, or without one. */
  readonly #end: Promise<Error | undefined>;

  constructor(helper: GuestProcess, failure: Failure) {
    super();
    this.#helper = helper;
    helper.stdout.resume();
    this.#end = helper.exit.then(
      ({ exitCode }) => failure(exitCode),
      (error: Error) => error,
    );
    void this.#end.then((error) => {
      if (error !== undefined) this.destroy(error);
      else if (!this.writableEnded) this.destroy(protocolError('a file that is written'));
    });
  }

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.#helper.stdin.write(chunk, (error) => {
      // A helper that ended has the better reason.
      if (error) void this.#end.then((reason) => done(reason ?? error));
      else done();
    });
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#helper.stdin.end(() => void this.#end.then(done));
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#helper.kill('SIGKILL');
    this.#helper.stdin.destroy();
    done(error);
  }
}
