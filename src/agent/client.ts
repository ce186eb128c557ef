/** The host's side of the guest agent: commands in the guest over any byte stream. */

import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { Closeable } from '../host/cleanup-stack.ts';
import { NodeVmmError, PeerError, UsageError } from '../host/errors.ts';
import { Command, type Deferred, defer, type GuestProcess, type SendFrame } from './command.ts';
import {
  AbortError,
  type CommandLine,
  type ExecOptions,
  planCommand,
  type SpawnOptions,
} from './command-options.ts';
import { type ExecResult, exec } from './exec.ts';
import * as wire from './protocol.ts';
import {
  decodeCredit,
  decodeReason,
  encodeCredit,
  encodeExec,
  encodeFrame,
  encodeHello,
  type Frame,
  FrameDecoder,
  HelloScanner,
  isUnasked,
  protocolError,
  resynchronise,
} from './protocol.ts';

const HELLO_RETRY_MS = 500;
/** The try before which an agent is taken to wait for the rest of a frame. */
const RESYNCHRONISE_AT = 6;

/** Gets the frames of a channel. */
export interface ChannelReceiver {
  /** @returns true when it was the channel's last frame */
  receive(frame: Frame): boolean;
  /** After a send returned false: there is room again. */
  drained(): void;
  /** The conversation has ended. */
  fail(error: NodeVmmError): void;
}

/** Options of a client. */
export interface AgentClientOptions {
  /** How long one greeting waits for its answer. Default 500 ms. */
  readonly helloRetryMs?: number;
  /** The other end shares its agent with others, and reports on its own why it ends. */
  readonly shared?: boolean;
  /** Why the stream ended on its own; answered by the owner of the machine behind it. */
  readonly whyEnded?: (cause?: Error) => Promise<NodeVmmError>;
}

/**
 * Speaks with the agent at the other end of a stream, which it owns from then on. It reads always;
 * what answers the other end does not pile up while that takes nothing.
 */
export class AgentClient extends Closeable {
  readonly #stream: Duplex;
  readonly #helloRetryMs: number;
  readonly #shared: boolean;
  readonly #whyEnded: (cause?: Error) => Promise<NodeVmmError>;
  readonly #nonce = randomBytes(8);
  readonly #channels = new Map<number, ChannelReceiver>();
  readonly #ready = defer<void>();
  #scanner: HelloScanner | undefined = new HelloScanner(this.#nonce);
  readonly #decoder = new FrameDecoder();
  readonly #end = defer<NodeVmmError>();
  #timer: NodeJS.Timeout | undefined;
  /** A greeting is being sent. */
  #greeting = false;
  #lastChannel = 0;
  /** Set while the stream takes no more. */
  #full: Deferred<void> | undefined;
  /** Credit that waits for room: bytes by stream, by channel. */
  #owed = new Map<number, [number, number, number]>();
  #ended = false;
  #error: NodeVmmError | undefined;

  /** @param stream e.g. a connected unix socket; it may carry the rest of an earlier conversation */
  constructor(stream: Duplex, { helloRetryMs, shared, whyEnded }: AgentClientOptions = {}) {
    super();
    this.#stream = stream;
    this.#helloRetryMs = helloRetryMs ?? HELLO_RETRY_MS;
    this.#shared = shared ?? false;
    this.#whyEnded = whyEnded ?? (async (cause) => agentLost(cause));
    stream.on('data', (chunk: Buffer) => this.#receive(chunk));
    stream.on('drain', () => this.#drained());
    stream.on('error', (cause) => this.#streamEnded(cause));
    stream.on('close', () => this.#streamEnded());
    stream.on('end', () => this.#streamEnded());
    this.#greet(0);
  }

  /** Whether nothing can be run any more: the stream has ended, or the conversation in it. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Resolves when the stream takes more, or has ended. */
  async drained(): Promise<void> {
    await this.#full?.promise;
  }

  /** Resolves when the agent has answered. @throws PeerError when the stream ends before */
  ready(): Promise<void> {
    return this.#ready.promise;
  }

  /** Resolves with the reason when the conversation has ended. */
  get closed(): Promise<NodeVmmError> {
    return this.#end.promise;
  }

  /**
   * Starts a command in the guest. May be called before `ready`.
   * @throws UsageError when an option is wrong, or the command line holds a NUL or is longer than a frame
   */
  spawn(line: CommandLine, options: SpawnOptions = {}): GuestProcess {
    const { name, request, user, signal, timeout = 0, killSignal } = planCommand(line, options);
    const payload = encodeExec(request);
    if (payload.length > wire.FRAME_MAX) {
      throw new UsageError(
        'E2BIG',
        `cannot run ${name}: its arguments take ${payload.length} bytes, more than ${wire.FRAME_MAX}`,
        'pass them by input or a file',
      );
    }
    const command = new Command(name, (type, data) => send(type, data), user);
    const send: SendFrame = this.open(command);
    const channel = this.#lastChannel;
    this.#ready.promise.then(
      () => {
        if (command.state === 'ended') this.#channels.delete(channel);
        else send(wire.FRAME_EXEC, payload);
      },
      () => {},
    );
    const stop = (error: NodeVmmError): void => command.abandon(error, killSignal ?? 'SIGKILL');
    if (timeout > 0) {
      const timer = setTimeout(() => stop(this.#timedOut(name, command, timeout)), timeout);
      whenSettled(command.exit, () => clearTimeout(timer));
    }
    if (signal !== undefined) {
      const abort = (): void => stop(new AbortError(signal.reason));
      signal.addEventListener('abort', abort, { once: true });
      whenSettled(command.exit, () => signal.removeEventListener('abort', abort));
      if (signal.aborted) abort();
    }
    return command;
  }

  /**
   * Takes a channel of its own for frames, as `spawn` does.
   * @throws PeerError when the conversation has ended
   */
  open(receiver: ChannelReceiver): SendFrame {
    if (this.#error !== undefined) throw this.#error;
    this.#lastChannel += 1;
    const channel = this.#lastChannel;
    this.#channels.set(channel, receiver);
    return (type, payload) => this.#send(type, channel, payload);
  }

  /** Runs a command to its end, as `exec` of exec.ts. */
  exec(line: CommandLine, options?: ExecOptions): Promise<ExecResult> {
    return exec(this, line, options);
  }

  /** Announces to the agent's sharer that the machine is about to be stopped, so that other clients learn it. */
  announceStop(): void {
    if (this.#shared) this.#send(wire.FRAME_STOP, 0, Buffer.alloc(0));
  }

  /**
   * Ends the conversation; the agent kills what still runs.
   * @param reason reported to commands that still run
   */
  close(reason: NodeVmmError = closed()): void {
    this.#fail(reason);
  }

  #timedOut(name: string, { state }: Command, timeout: number): PeerError {
    const answered = this.#scanner === undefined;
    const what = !answered
      ? `${name} was not run: the guest's agent did not answer`
      : state === 'waiting'
        ? `${name} was not run: the guest's agent did not start it`
        : `${name} was killed: it did not end`;
    return new PeerError('E_TIMEOUT', `${what} within ${timeout} ms`, 'raise timeout');
  }

  #send(type: number, channel: number, payload: Uint8Array): boolean {
    if (this.#ended || this.#scanner !== undefined) return true;
    if (this.#full !== undefined && type === wire.FRAME_CREDIT) {
      this.#owe(channel, payload);
      return false;
    }
    return this.#write(encodeFrame(type, channel, payload));
  }

  #write(bytes: Uint8Array): boolean {
    const room = this.#stream.write(bytes);
    if (!room) this.#full ??= defer<void>();
    return room;
  }

  #owe(channel: number, payload: Uint8Array): void {
    const { stream, bytes } = decodeCredit(payload);
    const owed = this.#owed.get(channel) ?? [0, 0, 0];
    // More than a window means no more to the other end.
    owed[stream] = Math.min(wire.STREAM_WINDOW, owed[stream] + bytes);
    this.#owed.set(channel, owed);
  }

  #drained(): void {
    this.#full?.resolve();
    this.#full = undefined;
    const owed = this.#owed;
    this.#owed = new Map();
    for (const [channel, streams] of owed) {
      streams.forEach((bytes, stream) => {
        if (bytes > 0) this.#send(wire.FRAME_CREDIT, channel, encodeCredit(stream, bytes));
      });
    }
    for (const receiver of this.#channels.values()) receiver.drained();
  }

  /** Greets until answered; the bytes may get lost before an agent is there. */
  #greet(tries: number): void {
    // Once, and late: padding is long, and an agent in step answers at the first try.
    if (tries === RESYNCHRONISE_AT) this.#write(resynchronise());
    this.#hello();
    this.#timer = setTimeout(() => this.#greet(tries + 1), this.#helloRetryMs);
    this.#timer.unref();
  }

  /** One greeting at a time: none is needed while another waits to be taken. */
  #hello(): void {
    if (this.#greeting) return;
    this.#greeting = true;
    this.#stream.write(encodeHello(this.#nonce), () => {
      this.#greeting = false;
    });
  }

  #receive(chunk: Buffer): void {
    if (this.#ended) return;
    try {
      if (this.#scanner !== undefined) this.#scan(this.#scanner, chunk);
      else this.#dispatch(this.#decoder.push(chunk));
    } catch (error) {
      // A payload that is too short shows as a range error of the buffer's.
      this.#fail(error instanceof NodeVmmError ? error : protocolError(String(error)));
    }
  }

  #scan(scanner: HelloScanner, chunk: Buffer): void {
    const { unasked, answer } = scanner.push(chunk);
    if (answer === undefined) {
      // The agent has just connected: whatever was sent before is lost.
      if (unasked) this.#hello();
      return;
    }
    if (answer.version !== wire.AGENT_VERSION) {
      throw new PeerError(
        'E_AGENT_VERSION',
        `the guest's agent speaks version ${answer.version}, not ${wire.AGENT_VERSION}`,
        'rebuild the guest (nodevmm guest build)',
      );
    }
    clearTimeout(this.#timer);
    this.#scanner = undefined;
    this.#ready.resolve();
    this.#dispatch(this.#decoder.push(answer.rest));
  }

  #dispatch(frames: readonly Frame[]): void {
    for (const frame of frames) {
      if (frame.type === wire.FRAME_HELLO) {
        // Answers to greetings sent twice may come late.
        if (!isUnasked(frame.payload)) continue;
        throw agentRestarted();
      }
      if (frame.type === wire.FRAME_END && this.#shared) throw decodeReason(frame.payload);
      const last = this.#channels.get(frame.channel)?.receive(frame);
      if (last !== true) continue;
      this.#channels.delete(frame.channel);
      this.#owed.delete(frame.channel);
    }
  }

  #streamEnded(cause?: Error): void {
    if (this.#ended) return;
    this.#letGo();
    void this.#whyEnded(cause).then((error) => this.#fail(error));
  }

  /** Nothing comes from the stream any more, and nothing goes into it. */
  #letGo(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#full?.resolve();
    this.#stream.destroy();
  }

  #fail(error: NodeVmmError): void {
    if (this.#error !== undefined) return;
    this.#error = error;
    this.#letGo();
    this.#ready.reject(error);
    this.#end.resolve(error);
    for (const receiver of this.#channels.values()) receiver.fail(error);
    this.#channels.clear();
  }
}

/** The error when another agent replaced the connected one. */
export function agentRestarted(): PeerError {
  return new PeerError(
    'E_AGENT_RESTARTED',
    'the guest agent ended and was restarted, and its commands are lost',
    'run them again',
  );
}

function closed(): PeerError {
  return new PeerError('E_AGENT_CLOSED', 'the connection to the guest agent was closed');
}

/** The error when nothing more is known than that the stream ended. */
export function agentLost(cause?: Error): PeerError {
  const why = cause === undefined ? '' : ` (${cause.message})`;
  return new PeerError(
    'E_AGENT_GONE',
    `the connection to the guest agent ended${why}: the guest stopped, or its agent crashed`,
  );
}

function whenSettled(promise: Promise<unknown>, action: () => void): void {
  promise.then(action, action);
}
