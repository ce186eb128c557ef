/**
 * The guest agent's wire protocol: frames in both directions over one byte stream, pure encoding
 * and decoding. Little-endian. The other end is guests/agent.
 *
 * ```
 * frame   u8 type, u32 channel, u32 length, length bytes of payload; type 0 is one byte of padding
 * ```
 *
 * A side that comes to a stream in use cannot know where a frame begins. The host therefore sends
 * HELLO with a nonce and skips every byte until HELLO with that nonce comes back; an agent that
 * was left in the middle of a frame is brought back in step by `resynchronise()`, more padding
 * than any frame is long.
 *
 * Each of a command's three streams has a window: at most STREAM_WINDOW bytes are on their way
 * until the reading side gives CREDIT back, so an unread stream blocks no other.
 */
import { type NodeVmmError, PeerError } from '../host/errors.ts';

export const AGENT_VERSION = 2;
export const AGENT_PORT_NAME = 'org.nodevmm.agent';
const AGENT_MAGIC = Buffer.from('nvmmagnt', 'latin1');

export const FRAME_PAD = 0;
/** Host: magic, nonce. Agent: magic, the same nonce (zero when unasked), u32 version. */
export const FRAME_HELLO = 1;
/** u8 flags, u16 columns, u16 rows, u16 argc, u16 envc, then NUL-terminated argv, env and cwd. */
export const FRAME_EXEC = 2;
/** Data; empty: end of input. */
export const FRAME_STDIN = 3;
/** u32 signal number, for the command's process group. */
export const FRAME_SIGNAL = 4;
/** u16 columns, u16 rows. */
export const FRAME_WINSIZE = 5;
/** u8 stream (0 stdin, 1 stdout, 2 stderr), u32 bytes that may follow. */
export const FRAME_CREDIT = 6;
/** u32 process id in the guest. */
export const FRAME_STARTED = 17;
/** Data; empty: the command closed it. */
export const FRAME_STDOUT = 18;
export const FRAME_STDERR = 19;
/** u32 exit status, u32 signal (0: none). The channel's last frame. */
export const FRAME_EXIT = 20;
/** u32 errno, text. The command did not start; the channel's last frame. */
export const FRAME_ERROR = 21;

/** To the sharer of an agent, on channel 0: its machine is about to be stopped on request. */
export const FRAME_STOP = 32;
/** From the sharer of an agent, on channel 0: why the conversation ends, as error code, NUL, message. */
export const FRAME_END = 33;

export const FRAME_HEADER = 9;
/** The longest payload, in bytes. */
export const FRAME_MAX = 128 * 1024;
/** Bytes of one stream that may wait at the other side. */
export const STREAM_WINDOW = 256 * 1024;
/** Commands that an agent runs at a time. */
export const COMMANDS_MAX = 256;
export const EXEC_TTY = 1;

/** One frame. `payload` is a view on the received bytes. */
export interface Frame {
  readonly type: number;
  readonly channel: number;
  readonly payload: Buffer;
}

/** What EXEC carries. */
export interface ExecRequest {
  readonly argv: readonly string[];
  /** `NAME=value`, added to the agent's own environment. */
  readonly env: readonly string[];
  /** Empty: the agent's own. */
  readonly cwd: string;
  /** A terminal of this size instead of pipes. */
  readonly tty?: { readonly columns: number; readonly rows: number };
}

/** A frame's bytes. */
export function encodeFrame(type: number, channel: number, payload?: Uint8Array): Buffer {
  const length = payload?.length ?? 0;
  const frame = Buffer.allocUnsafe(FRAME_HEADER + length);
  frame[0] = type;
  frame.writeUInt32LE(channel, 1);
  frame.writeUInt32LE(length, 5);
  if (payload !== undefined) frame.set(payload, FRAME_HEADER);
  return frame;
}

/** The payload of EXEC. Strings hold no NUL (checked by the caller). */
export function encodeExec(request: ExecRequest): Buffer {
  const head = Buffer.alloc(9);
  head[0] = request.tty === undefined ? 0 : EXEC_TTY;
  head.writeUInt16LE(request.tty?.columns ?? 0, 1);
  head.writeUInt16LE(request.tty?.rows ?? 0, 3);
  head.writeUInt16LE(request.argv.length, 5);
  head.writeUInt16LE(request.env.length, 7);
  const strings = [...request.argv, ...request.env, request.cwd];
  return Buffer.concat([head, ...strings.map((text) => Buffer.from(`${text}\0`))]);
}

/** Reads an EXEC payload back. @throws PeerError when it is malformed */
export function decodeExec(payload: Buffer): ExecRequest {
  if (payload.length < 10 || payload[payload.length - 1] !== 0) throw protocolError('EXEC');
  const argc = payload.readUInt16LE(5);
  const envc = payload.readUInt16LE(7);
  const strings = payload.toString('utf8', 9, payload.length - 1).split('\0');
  const cwd = strings[argc + envc];
  if (strings.length !== argc + envc + 1 || cwd === undefined) throw protocolError('EXEC');
  const request = { argv: strings.slice(0, argc), env: strings.slice(argc, argc + envc), cwd };
  if ((payload.readUInt8(0) & EXEC_TTY) === 0) return request;
  return {
    ...request,
    tty: { columns: payload.readUInt16LE(1), rows: payload.readUInt16LE(3) },
  };
}

/** The host's HELLO. @param nonce 8 bytes that this connection has for itself */
export function encodeHello(nonce: Uint8Array): Buffer {
  return encodeFrame(FRAME_HELLO, 0, Buffer.concat([AGENT_MAGIC, nonce]));
}

/** The agent's answer to a HELLO. */
export function encodeHelloReply(nonce: Uint8Array, version: number): Buffer {
  return encodeFrame(FRAME_HELLO, 0, Buffer.concat([AGENT_MAGIC, nonce, encodeU32(version)]));
}

/** The nonce in the host's HELLO, or undefined when it is none. */
export function decodeHello(payload: Buffer): Buffer | undefined {
  if (payload.length !== 16 || !payload.subarray(0, 8).equals(AGENT_MAGIC)) return undefined;
  return payload.subarray(8, 16);
}

/** What precedes HELLO when an agent does not answer: it may be waiting for the rest of a frame. */
export function resynchronise(): Buffer {
  return Buffer.alloc(FRAME_HEADER + FRAME_MAX);
}

/** The payload of SIGNAL, STARTED. */
export function encodeU32(value: number): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt32LE(value);
  return payload;
}

/** The payload of WINSIZE. */
export function encodeWinsize(columns: number, rows: number): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt16LE(columns, 0);
  payload.writeUInt16LE(rows, 2);
  return payload;
}

/** The payload of CREDIT. */
export function encodeCredit(stream: number, bytes: number): Buffer {
  const payload = Buffer.alloc(5);
  payload[0] = stream;
  payload.writeUInt32LE(bytes, 1);
  return payload;
}

/** Reads a CREDIT payload back. @throws PeerError for a stream that no command has */
export function decodeCredit(payload: Uint8Array): {
  readonly stream: 0 | 1 | 2;
  readonly bytes: number;
} {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const stream = view.getUint8(0);
  if (stream !== 0 && stream !== 1 && stream !== 2) throw protocolError('CREDIT');
  return { stream, bytes: view.getUint32(1, true) };
}

/** The longest reason that is sent. */
const REASON_MAX = 16 * 1024;

/** The payload of END. */
export function encodeReason({ code, problem, remedy = '' }: NodeVmmError): Buffer {
  return Buffer.from(`${code}\0${problem}\0${remedy}`).subarray(0, REASON_MAX);
}

/** Reads an END payload back. @throws PeerError when it holds no error */
export function decodeReason(payload: Buffer): PeerError {
  const text = payload.toString('utf8', 0, REASON_MAX);
  const [, code, problem, remedy = ''] =
    /^(E_[A-Z_]{1,32})\0([^\0]+)(?:\0([^\0]*))?$/.exec(text) ?? [];
  if (code === undefined || problem === undefined) throw protocolError('END');
  return new PeerError(code, problem, remedy === '' ? undefined : remedy);
}

const helloHead = encodeFrame(FRAME_HELLO, 0, Buffer.concat([AGENT_MAGIC, Buffer.alloc(12)]));
/** The bytes up to the nonce, which no other frame of the agent's begins with. */
const helloMark = helloHead.subarray(0, FRAME_HEADER + 8);

/** The nonce of an agent that greets unasked. */
const nobody = Buffer.alloc(8);

/** Whether an agent's HELLO is unsolicited: the agent has just started. */
export function isUnasked(hello: Buffer): boolean {
  return hello.subarray(8, 16).equals(nobody);
}

/** What a piece of the stream held. */
export interface HelloScan {
  /** An agent greeted unasked. */
  readonly unasked: boolean;
  /** The answer to our HELLO, with the bytes behind it. */
  readonly answer?: { readonly version: number; readonly rest: Buffer };
}

/**
 * Finds the agent's HELLO frames in a stream whose frame boundaries are unknown. Each byte is looked
 * at once, and fewer than a HELLO has are kept.
 */
export class HelloScanner {
  readonly #nonce: Buffer;
  #held: Buffer = Buffer.alloc(0);

  /** @param nonce of the HELLO that was sent */
  constructor(nonce: Uint8Array) {
    this.#nonce = Buffer.from(nonce);
  }

  /**
   * Looks as far as the answer.
   * @param chunk the next bytes of the stream
   */
  push(chunk: Uint8Array): HelloScan {
    const bytes = Buffer.concat([this.#held, chunk]);
    let unasked = false;
    let at = 0;
    let mark = bytes.indexOf(helloMark);
    while (mark >= 0 && bytes.length >= mark + helloHead.length) {
      const end = mark + helloHead.length;
      const nonce = bytes.subarray(mark + helloMark.length, end - 4);
      if (nonce.equals(this.#nonce)) {
        this.#held = Buffer.alloc(0);
        const answer = { version: bytes.readUInt32LE(end - 4), rest: bytes.subarray(end) };
        return { unasked, answer };
      }
      if (nonce.equals(nobody)) unasked = true;
      at = mark + helloMark.length;
      mark = bytes.indexOf(helloMark, at);
    }
    const keep = mark >= 0 ? mark : Math.max(at, bytes.length - helloMark.length + 1);
    this.#held = Buffer.from(bytes.subarray(Math.max(0, keep)));
    return { unasked };
  }
}

/** Cuts a stream into frames. Each byte is copied at most once; at most one frame is kept. */
export class FrameDecoder {
  /** The frame that has begun: room for its header, then for all of it. */
  #begun: Buffer = Buffer.alloc(FRAME_HEADER);
  #filled = 0;

  /**
   * @returns the frames that are complete now
   * @throws PeerError on a frame that is too long
   */
  push(chunk: Uint8Array): Frame[] {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    const frames: Frame[] = [];
    let at = 0;
    while (at < bytes.length) {
      if (this.#filled > 0) {
        at += this.#fill(bytes, at);
        if (this.#filled < this.#begun.length) break;
        frames.push(frameOf(this.#begun));
        this.#begun = Buffer.alloc(FRAME_HEADER);
        this.#filled = 0;
      } else if (bytes[at] === FRAME_PAD) {
        at += 1;
      } else {
        const end = at + frameLength(bytes, at);
        if (end <= bytes.length) {
          frames.push(frameOf(bytes.subarray(at, end)));
          at = end;
        } else {
          at += this.#fill(bytes, at);
        }
      }
    }
    return frames;
  }

  /** Takes what the begun frame lacks, its payload only once its header is whole. */
  #fill(bytes: Buffer, from: number): number {
    let at = from;
    if (this.#filled < FRAME_HEADER) {
      at += this.#copy(bytes, at, FRAME_HEADER);
      if (this.#filled < FRAME_HEADER) return at - from;
      const whole = Buffer.allocUnsafe(frameLength(this.#begun, 0));
      this.#begun.copy(whole);
      this.#begun = whole;
    }
    at += this.#copy(bytes, at, this.#begun.length);
    return at - from;
  }

  #copy(bytes: Buffer, at: number, end: number): number {
    const copied = bytes.copy(this.#begun, this.#filled, at, at + end - this.#filled);
    this.#filled += copied;
    return copied;
  }
}

/** Bytes of the frame that begins there; more than there are when its header is not whole. */
function frameLength(bytes: Buffer, at: number): number {
  if (bytes.length - at < FRAME_HEADER) return FRAME_HEADER;
  return FRAME_HEADER + checkedLength(bytes.readUInt32LE(at + 5));
}

function frameOf(bytes: Buffer): Frame {
  return {
    type: bytes.readUInt8(0),
    channel: bytes.readUInt32LE(1),
    payload: bytes.subarray(FRAME_HEADER),
  };
}

function checkedLength(length: number): number {
  if (length > FRAME_MAX) throw protocolError(`a frame of ${length} bytes`);
  return length;
}

/** The other end broke the protocol. @param what which part */
export function protocolError(what: string): PeerError {
  return new PeerError(
    'E_AGENT_PROTOCOL',
    `the guest agent's stream is broken (${what})`,
    'restart the guest',
  );
}
