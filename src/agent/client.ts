/** The host's side of the guest agent: commands in the guest over any byte stream. */
import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { NodeVmmError, PeerError, UsageError } from '../host/errors.ts';
import { Command, type GuestProcess, type SpawnOptions } from './command.ts';
import { defer } from './deferred.ts';
import {
  AGENT_VERSION,
  encodeExec,
  encodeFrame,
  encodeHello,
  FRAME_EXEC,
  FRAME_HELLO,
  FRAME_MAX,
  type Frame,
  FrameDecoder,
  HelloScanner,
  protocolError,
  resynchronise,
} from './protocol.ts';

const HELLO_RETRY_MS = 500;
/** The try before which an agent is taken to wait for the rest of a frame. */
const RESYNCHRONISE_AT = 6;

/** How a command ended, with all that it wrote. */
export interface ExecResult {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** 128 + signal when a signal ended it. */
  readonly exitCode: number;
}

/** What `exec` runs. */
export interface ExecOptions extends SpawnOptions {
  /** Given to the command as its standard input. Default none. */
  readonly stdin?: string | Uint8Array;
}

/** Who takes the frames of a channel. */
export interface ChannelReceiver {
  /** @returns true when it was the channel's last frame */
  receive(frame: Frame): boolean;
  /** The conversation has ended. */
  fail(error: NodeVmmError): void;
}

/** What a client may be told beside the stream. */
export interface AgentClientOptions {
  /** How long one greeting waits for its answer. Default 500 ms. */
  readonly helloRetryMs?: number;
  /** Asked why when the stream ends by itself, by whoever owns the machine behind it. */
  readonly whyEnded?: () => Promise<NodeVmmError>;
}

/** Speaks with the agent at the other end of a stream, which it owns from then on. */
export class AgentClient implements Disposable {
  readonly #stream: Duplex;
  readonly #helloRetryMs: number;
  readonly #nonce = randomBytes(8);
  readonly #channels = new Map<number, ChannelReceiver>();
  readonly #ready = defer<void>();
  #scanner: HelloScanner | undefined = new HelloScanner();
  #decoder = new FrameDecoder();
  readonly #end = defer<NodeVmmError>();
  #timer: NodeJS.Timeout | undefined;
  #lastChannel = 0;
  #error: NodeVmmError | undefined;

  /** @param stream e.g. a connected unix socket; it may carry the rest of an earlier conversation */
  constructor(stream: Duplex, { helloRetryMs, whyEnded }: AgentClientOptions = {}) {
    this.#stream = stream;
    this.#helloRetryMs = helloRetryMs ?? HELLO_RETRY_MS;
    const ended = (cause?: Error): void => {
      if (whyEnded === undefined) this.#fail(disconnected(cause));
      else whyEnded().then((error) => this.#fail(error));
    };
    stream.on('data', (chunk: Buffer) => this.#receive(chunk));
    stream.on('error', ended);
    stream.on('close', () => ended());
    stream.on('end', () => ended());
    this.#greet(0);
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
   * @param argv program (looked up in the guest's PATH) and arguments; no shell
   * @throws UsageError when the command line holds a NUL or is longer than a frame
   */
  spawn(argv: readonly string[], options: SpawnOptions = {}): GuestProcess {
    const env = Object.entries(options.env ?? {}).map(([name, value]) => `${name}=${value}`);
    const cwd = options.cwd ?? '';
    checkStrings([...argv, ...env, cwd], argv);
    const { tty } = options;
    const payload = encodeExec({ argv, env, cwd, ...(tty === undefined ? {} : { tty }) });
    if (payload.length > FRAME_MAX) {
      throw new UsageError(
        'E2BIG',
        `cannot run ${argv[0]}: its arguments take ${payload.length} bytes, at most ${FRAME_MAX} fit; pass them by stdin or a file`,
      );
    }
    const command = new Command(argv[0] ?? '', (type, data) => send(type, data));
    const send = this.open(command);
    this.#ready.promise.then(
      () => send(FRAME_EXEC, payload),
      () => {},
    );
    return command;
  }

  /**
   * Takes a channel of its own for frames, as `spawn` does.
   * @returns puts a frame on it; before `ready` and after the end frames are lost
   * @throws PeerError when the conversation has ended
   */
  open(receiver: ChannelReceiver): (type: number, payload: Uint8Array) => void {
    if (this.#error !== undefined) throw this.#error;
    this.#lastChannel += 1;
    const channel = this.#lastChannel;
    this.#channels.set(channel, receiver);
    return (type, payload) => this.#send(type, channel, payload);
  }

  /** Runs a command to its end. @throws UsageError when it cannot be started */
  async exec(argv: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
    const command = this.spawn(argv, options);
    command.stdin.on('error', () => {});
    command.stdin.end(options.stdin);
    const [stdout, stderr, end] = await Promise.all([
      collect(command.stdout),
      collect(command.stderr),
      command.exit,
    ]);
    return { stdout, stderr, exitCode: end.exitCode };
  }

  /** Ends the conversation; the agent kills what still runs. */
  close(): void {
    this.#fail(new PeerError('E_AGENT_CLOSED', 'the connection to the guest agent was closed'));
    this.#stream.destroy();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #send(type: number, channel: number, payload: Uint8Array): void {
    if (this.#error !== undefined || this.#scanner !== undefined) return;
    this.#stream.write(encodeFrame(type, channel, payload));
  }

  /** Greets until answered; the bytes may get lost before an agent is there. */
  #greet(tries: number): void {
    // Once, and late: padding is long, and an agent in step answers at the first try.
    if (tries === RESYNCHRONISE_AT) this.#stream.write(resynchronise());
    this.#stream.write(encodeHello(this.#nonce));
    this.#timer = setTimeout(() => this.#greet(tries + 1), this.#helloRetryMs);
    this.#timer.unref();
  }

  #receive(chunk: Buffer): void {
    try {
      if (this.#scanner !== undefined) this.#scan(chunk);
      else this.#dispatch(this.#decoder.push(chunk));
    } catch (error) {
      // A payload that is too short shows as a range error of the buffer's.
      this.#fail(error instanceof NodeVmmError ? error : protocolError(String(error)));
      this.#stream.destroy();
    }
  }

  #scan(chunk: Buffer): void {
    let rest = chunk;
    for (;;) {
      const hello = this.#scanner?.push(rest);
      if (hello === undefined) return;
      rest = hello.rest;
      if (!hello.nonce.equals(this.#nonce)) {
        // The agent has just come: what was sent to nobody is lost.
        if (hello.nonce.equals(Buffer.alloc(8))) this.#stream.write(encodeHello(this.#nonce));
        continue;
      }
      if (hello.version !== AGENT_VERSION) {
        throw new PeerError(
          'E_AGENT_VERSION',
          `the guest's agent speaks version ${hello.version}, not ${AGENT_VERSION}; rebuild the guest (nodevmm guest build)`,
        );
      }
      clearTimeout(this.#timer);
      this.#scanner = undefined;
      this.#ready.resolve();
      this.#dispatch(this.#decoder.push(rest));
      return;
    }
  }

  #dispatch(frames: readonly Frame[]): void {
    for (const frame of frames) {
      if (frame.type === FRAME_HELLO) {
        // Answers to greetings sent twice may come late; a zero nonce is a new agent.
        if (!frame.payload.subarray(8, 16).equals(Buffer.alloc(8))) continue;
        throw new PeerError(
          'E_AGENT_RESTARTED',
          'the guest agent started anew; its commands are lost',
        );
      }
      const last = this.#channels.get(frame.channel)?.receive(frame);
      if (last === true) this.#channels.delete(frame.channel);
    }
  }

  #fail(error: NodeVmmError): void {
    if (this.#error !== undefined) return;
    this.#error = error;
    clearTimeout(this.#timer);
    this.#ready.reject(error);
    this.#end.resolve(error);
    for (const receiver of this.#channels.values()) receiver.fail(error);
    this.#channels.clear();
  }
}

function disconnected(cause?: Error): PeerError {
  const why = cause === undefined ? '' : ` (${cause.message})`;
  return new PeerError(
    'E_AGENT_GONE',
    `the connection to the guest agent ended${why}; the guest has stopped or its agent has died`,
  );
}

function checkStrings(strings: readonly string[], argv: readonly string[]): void {
  if (argv.length === 0 || argv[0] === '') {
    throw new UsageError('E_ARGV', 'cannot run an empty command; name a program');
  }
  if (strings.some((text) => text.includes('\0'))) {
    throw new UsageError(
      'E_ARGV',
      `cannot run ${argv[0]}: an argument holds a NUL byte; remove it`,
    );
  }
}

async function collect(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}
