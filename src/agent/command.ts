/** One command in the guest, as Node streams with the protocol's windows. */
import { constants as os } from 'node:os';
import { Readable, Writable } from 'node:stream';
import { ESRCH } from '../abi/errno.ts';
import { type NodeVmmError, UsageError } from '../host/errors.ts';
import { errnoName } from '../host/syscall.ts';
import type { CommandLine, SpawnOptions } from './command-options.ts';
import * as wire from './protocol.ts';
import {
  decodeCredit,
  encodeCredit,
  encodeU32,
  encodeWinsize,
  type Frame,
  protocolError,
} from './protocol.ts';

/**
 * Puts a frame on a channel; before the agent is there and after the end frames are lost.
 * @returns false when the way to it is full: what can wait is to wait for `drained`
 */
export type SendFrame = (type: number, payload: Uint8Array) => boolean;

const CHUNK = 64 * 1024;

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

/** What starts commands: a client, a machine, a lab. */
export interface CommandSpawner {
  spawn(command: CommandLine, options?: SpawnOptions): GuestProcess;
}

/** One channel of an AgentClient. */
export class Command implements GuestProcess {
  readonly stdin: Writable;
  readonly stdout: Output;
  readonly stderr: Output;
  readonly #name: string;
  readonly #user: string | undefined;
  readonly #send: SendFrame;
  readonly #started = defer<number>();
  readonly #exit = defer<CommandExit>();
  #running = false;
  #ended = false;
  /** It was left behind: what it still sends is dropped. */
  #abandoned = false;
  #window = wire.STREAM_WINDOW;
  /** False while the way to the guest is full. */
  #room = true;
  #waiting: { data: Buffer; done: (error?: Error | null) => void } | undefined;

  /**
   * @param name the program, for messages
   * @param send puts a frame on this command's channel
   * @param user who it is to run as
   */
  constructor(name: string, send: SendFrame, user?: string) {
    this.#name = name;
    this.#send = send;
    this.#user = user;
    const credit = (stream: number) => (bytes: number) => {
      if (!this.#ended) send(wire.FRAME_CREDIT, encodeCredit(stream, bytes));
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
          send(wire.FRAME_STDIN, Buffer.alloc(0));
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

  /** Whether it has, or runs, or has not started yet. */
  get state(): 'waiting' | 'running' | 'ended' {
    if (this.#ended) return 'ended';
    return this.#running ? 'running' : 'waiting';
  }

  get started(): Promise<number> {
    return this.#started.promise;
  }

  get exit(): Promise<CommandExit> {
    return this.#exit.promise;
  }

  kill(signal: NodeJS.Signals = 'SIGTERM'): void {
    this.#whenRunning(() => this.#send(wire.FRAME_SIGNAL, encodeU32(os.signals[signal])));
  }

  resize(columns: number, rows: number): void {
    this.#whenRunning(() => this.#send(wire.FRAME_WINSIZE, encodeWinsize(columns, rows)));
  }

  /** Takes a frame of this channel. @returns true when it was the last. @throws PeerError when it breaks the protocol */
  receive(frame: Frame): boolean {
    const { payload } = frame;
    if (this.#abandoned) return this.#drop(frame);
    switch (frame.type) {
      case wire.FRAME_STARTED:
        this.#running = true;
        this.#started.resolve(payload.readUInt32LE(0));
        this.#pump();
        return false;
      case wire.FRAME_STDOUT:
        feed(this.stdout, payload);
        return false;
      case wire.FRAME_STDERR:
        feed(this.stderr, payload);
        return false;
      case wire.FRAME_CREDIT: {
        const { stream, bytes } = decodeCredit(payload);
        if (stream !== 0) throw protocolError('CREDIT');
        this.#window = Math.min(wire.STREAM_WINDOW, this.#window + bytes);
        this.#pump();
        return false;
      }
      case wire.FRAME_EXIT:
        if (!this.#running) throw protocolError('the end of a command that did not start');
        this.#finish(exitOf(payload.readUInt32LE(0), payload.readUInt32LE(4)));
        return true;
      case wire.FRAME_ERROR:
        this.fail(notStarted(this.#name, payload, this.#user));
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

  /** Kills it, and ends it here at once: what it still sends is dropped. */
  abandon(error: NodeVmmError, signal: NodeJS.Signals): void {
    if (this.#ended) return;
    this.#abandoned = true;
    this.fail(error);
    this.#send(wire.FRAME_SIGNAL, encodeU32(os.signals[signal]));
    // Output that waits for credit would hold up the end in the guest.
    this.#send(wire.FRAME_CREDIT, encodeCredit(1, wire.STREAM_WINDOW));
    this.#send(wire.FRAME_CREDIT, encodeCredit(2, wire.STREAM_WINDOW));
  }

  #drop({ type, payload }: Frame): boolean {
    if (type === wire.FRAME_STDOUT || type === wire.FRAME_STDERR) {
      const stream = type === wire.FRAME_STDOUT ? 1 : 2;
      this.#send(wire.FRAME_CREDIT, encodeCredit(stream, payload.length));
    }
    return type === wire.FRAME_EXIT || type === wire.FRAME_ERROR;
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
      if (!this.#send(wire.FRAME_STDIN, part)) this.#room = false;
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

function notStarted(name: string, payload: Buffer, user: string | undefined): UsageError {
  const errno = payload.readUInt32LE(0);
  const code = errnoName(errno);
  // What the agent says of a user that it does not find; exec(2) and chdir(2) never do.
  if (user !== undefined && errno === ESRCH) {
    return new UsageError(
      'E_USER',
      `cannot run ${name} in the guest: its /etc/passwd has no user ${user}`,
      'use one that it has',
    );
  }
  const words = payload.toString('utf8', 4, 4 + WORDS_MAX);
  return new UsageError(
    code,
    `cannot run ${name} in the guest: ${words} (${code})`,
    "check the command, its directory and the guest's PATH",
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

/** Credit is given in steps of this: a frame per keystroke would be waste. */
const CREDIT_STEP = wire.STREAM_WINDOW / 4;

/** Pieces shorter than this are joined while they wait: each would cost more than it holds. */
const SMALL = 4096;
const BLOCK = 4 * SMALL;

/** Bytes from the guest on their way to a reader. */
export class Output extends Readable {
  readonly #credit: (bytes: number) => void;
  #queue: Buffer[] = [];
  /** Where small pieces are joined: while set, the last of the queue is its first #blockEnd bytes. */
  #block: Buffer | undefined;
  #blockEnd = 0;
  #wanted = false;
  #finished = false;
  #ended = false;
  /** Bytes taken by the reader since the last credit. */
  #taken = 0;
  /** Bytes arrived that no credit was given for. */
  #owed = 0;

  /** @param credit grants the sender that many more bytes */
  constructor(credit: (bytes: number) => void) {
    super({ highWaterMark: CREDIT_STEP });
    this.#credit = credit;
  }

  /**
   * Takes bytes that have arrived.
   * @throws PeerError when they are more than the window allows, or come after the end
   */
  feed(bytes: Buffer): void {
    if (this.#finished) throw protocolError('output after its end');
    this.#owed += bytes.length;
    if (this.#owed > wire.STREAM_WINDOW) throw protocolError('output beyond its window');
    if (bytes.length < SMALL && this.#queue.length > 0) this.#join(bytes);
    else this.#append(bytes);
    this.#flush();
  }

  /** No more will come. */
  finish(): void {
    if (this.#finished) return;
    this.#finished = true;
    this.#flush();
  }

  override _read(): void {
    this.#wanted = true;
    this.#flush();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#flush();
    done(error);
  }

  #append(bytes: Buffer): void {
    this.#block = undefined;
    this.#queue.push(bytes);
  }

  #join(bytes: Buffer): void {
    if (this.#block !== undefined && this.#blockEnd + bytes.length <= BLOCK) {
      this.#queue.pop();
    } else {
      this.#block = Buffer.allocUnsafe(BLOCK);
      this.#blockEnd = 0;
    }
    bytes.copy(this.#block, this.#blockEnd);
    this.#blockEnd += bytes.length;
    this.#queue.push(this.#block.subarray(0, this.#blockEnd));
  }

  #flush(): void {
    while (this.#queue.length > 0 && (this.#wanted || this.destroyed)) {
      const bytes = this.#queue.shift() as Buffer;
      this.#taken += bytes.length;
      if (this.#taken >= CREDIT_STEP) {
        this.#credit(this.#taken);
        this.#owed -= this.#taken;
        this.#taken = 0;
      }
      // A reader that has left must not hold up the writer: its bytes are dropped.
      if (!this.destroyed) this.#wanted = this.push(bytes);
    }
    if (this.#finished && !this.#ended && this.#queue.length === 0 && !this.destroyed) {
      this.#ended = true;
      this.push(null);
    }
  }
}
