/** One command in the guest, as Node streams with the protocol's windows. */
import { constants as os } from 'node:os';
import { type Readable, Writable } from 'node:stream';
import { type NodeVmmError, UsageError } from '../host/errors.ts';
import { errnoName } from '../host/syscall.ts';
import { Output } from './output.ts';
import {
  decodeCredit,
  encodeCredit,
  encodeU32,
  encodeWinsize,
  FRAME_CREDIT,
  FRAME_ERROR,
  FRAME_EXIT,
  FRAME_SIGNAL,
  FRAME_STARTED,
  FRAME_STDERR,
  FRAME_STDIN,
  FRAME_STDOUT,
  FRAME_WINSIZE,
  type Frame,
  protocolError,
  STREAM_WINDOW,
} from './protocol.ts';

/**
 * Puts a frame on a channel; before the agent is there and after the end frames are lost.
 * @returns false when the way to it is full: what can wait is to wait for `drained`
 */
export type SendFrame = (type: number, payload: Uint8Array) => boolean;

const CHUNK = 64 * 1024;

/** How a command is run. */
export interface SpawnOptions {
  /** Added to the environment that the agent has. */
  readonly env?: Readonly<Record<string, string>>;
  /** Default: the agent's, which is `/`. */
  readonly cwd?: string;
  /** Give it a terminal of this size: stdout carries all of its output, stderr none. */
  readonly tty?: { readonly columns: number; readonly rows: number };
}

/** How a command ended. */
export interface CommandExit {
  /** Its status, or 128 + signal as shells have it. */
  readonly exitCode: number;
  /** Name of the signal that ended it, e.g. `SIGKILL`. */
  readonly signal?: string;
}

/** A command that runs in the guest. */
export interface GuestProcess {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** Resolves with the process id in the guest once it runs. Rejects when it cannot be started. */
  readonly started: Promise<number>;
  /** Settles after the last output has arrived. Rejects when it cannot be started or the guest goes. */
  readonly exit: Promise<CommandExit>;
  /** Signals its process group. @param signal default SIGTERM */
  kill(signal?: NodeJS.Signals): void;
  /** Sends a command with a terminal its new size. */
  resize(columns: number, rows: number): void;
}

/** One channel of an AgentClient. */
export class Command implements GuestProcess {
  readonly stdin: Writable;
  readonly stdout: Output;
  readonly stderr: Output;
  readonly #name: string;
  readonly #send: SendFrame;
  readonly #started = defer<number>();
  readonly #exit = defer<CommandExit>();
  #running = false;
  #ended = false;
  #window = STREAM_WINDOW;
  /** False while the way to the guest is full. */
  #room = true;
  #waiting: { data: Buffer; done: (error?: Error | null) => void } | undefined;

  /**
   * @param name the program, for messages
   * @param send puts a frame on this command's channel
   */
  constructor(name: string, send: SendFrame) {
    this.#name = name;
    this.#send = send;
    const credit = (stream: number) => (bytes: number) => {
      if (!this.#ended) send(FRAME_CREDIT, encodeCredit(stream, bytes));
    };
    this.stdout = new Output(credit(1));
    this.stderr = new Output(credit(2));
    this.stdin = new Writable({
      write: (data: Buffer, _encoding, done) => {
        this.#waiting = { data, done };
        this.#pump();
      },
      final: (done) => {
        this.#whenRunning(() => {
          send(FRAME_STDIN, Buffer.alloc(0));
          done();
        });
      },
      destroy: (error, done) => {
        this.#waiting = undefined;
        done(error);
      },
    });
    this.stdin.on('error', () => {});
  }

  get started(): Promise<number> {
    return this.#started.promise;
  }

  get exit(): Promise<CommandExit> {
    return this.#exit.promise;
  }

  kill(signal: NodeJS.Signals = 'SIGTERM'): void {
    this.#whenRunning(() => this.#send(FRAME_SIGNAL, encodeU32(os.signals[signal])));
  }

  resize(columns: number, rows: number): void {
    this.#whenRunning(() => this.#send(FRAME_WINSIZE, encodeWinsize(columns, rows)));
  }

  /** Takes a frame of this channel. @returns true when it was the last. @throws PeerError when it breaks the protocol */
  receive(frame: Frame): boolean {
    const { payload } = frame;
    switch (frame.type) {
      case FRAME_STARTED:
        this.#running = true;
        this.#started.resolve(payload.readUInt32LE(0));
        this.#pump();
        return false;
      case FRAME_STDOUT:
        feed(this.stdout, payload);
        return false;
      case FRAME_STDERR:
        feed(this.stderr, payload);
        return false;
      case FRAME_CREDIT: {
        const { stream, bytes } = decodeCredit(payload);
        if (stream !== 0) throw protocolError('CREDIT');
        this.#window = Math.min(STREAM_WINDOW, this.#window + bytes);
        this.#pump();
        return false;
      }
      case FRAME_EXIT:
        if (!this.#running) throw protocolError('the end of a command that did not start');
        this.#finish(exitOf(payload.readUInt32LE(0), payload.readUInt32LE(4)));
        return true;
      case FRAME_ERROR:
        this.fail(notStarted(this.#name, payload));
        return true;
      default:
        return false;
    }
  }

  drained(): void {
    this.#room = true;
    this.#pump();
  }

  /** Ends the command without an exit status. */
  fail(error: NodeVmmError): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#started.reject(error);
    this.#exit.reject(error);
    this.stdout.finish();
    this.stderr.finish();
    this.stdin.destroy(error);
  }

  #finish(exit: CommandExit): void {
    this.#ended = true;
    this.stdout.finish();
    this.stderr.finish();
    this.stdin.destroy();
    this.#exit.resolve(exit);
  }

  #whenRunning(action: () => void): void {
    if (this.#ended) return;
    if (this.#running) action();
    else this.#started.promise.then(action, () => {});
  }

  #pump(): void {
    while (this.#running && this.#room && !this.#ended && this.#window > 0) {
      if (this.#waiting === undefined) return;
      const { data, done } = this.#waiting;
      const part = data.subarray(0, Math.min(CHUNK, this.#window));
      const rest = data.subarray(part.length);
      this.#window -= part.length;
      // Before the send: a stream in this process may bring credit, and so this call, within it.
      this.#waiting = rest.length === 0 ? undefined : { data: rest, done };
      if (!this.#send(FRAME_STDIN, part)) this.#room = false;
      if (rest.length === 0) done();
    }
  }
}

function feed(stream: Output, payload: Buffer): void {
  if (payload.length > 0) stream.feed(payload);
  else stream.finish();
}

function exitOf(status: number, signal: number): CommandExit {
  if (signal === 0) return { exitCode: status };
  const name = Object.entries(os.signals).find(([, number]) => number === signal)?.[0];
  return { exitCode: 128 + signal, signal: name ?? `signal ${signal}` };
}

/** The most of an agent's own words that a message takes. */
const WORDS_MAX = 256;

function notStarted(name: string, payload: Buffer): UsageError {
  const code = errnoName(payload.readUInt32LE(0));
  const words = payload.toString('utf8', 4, 4 + WORDS_MAX);
  return new UsageError(
    code,
    `cannot run ${name} in the guest: ${words} (${code}); check the command, its directory and the guest's PATH`,
  );
}

/** A promise that is settled from outside. */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}

/** Makes one. A rejection that is not awaited does not count as unhandled. */
export function defer<T>(): Deferred<T> {
  let resolve: (value: T) => void = () => {};
  let reject: (error: Error) => void = () => {};
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  promise.catch(() => {});
  return { promise, resolve, reject };
}

/** Stands for output beyond the limit. */
export const TOO_MUCH: unique symbol = Symbol('more than the limit');

/** Reads a stream to its end. @returns TOO_MUCH when it has more bytes than `limit` */
export async function collect(
  stream: AsyncIterable<Buffer>,
  limit: number,
): Promise<Buffer | typeof TOO_MUCH> {
  // One buffer that doubles: a stream of single bytes takes no more room than its bytes.
  let bytes = Buffer.alloc(0);
  let length = 0;
  for await (const chunk of stream) {
    const end = length + chunk.length;
    if (end > limit) return TOO_MUCH;
    if (end > bytes.length) {
      const larger = Buffer.allocUnsafe(Math.min(Math.max(end, 2 * bytes.length), limit));
      bytes.copy(larger, 0, 0, length);
      bytes = larger;
    }
    chunk.copy(bytes, length);
    length = end;
  }
  return bytes.subarray(0, length);
}
