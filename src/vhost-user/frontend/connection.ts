/** The frontend's side of one connection: what it asks is answered in time, or the connection ends. */
import {
  VHOST_USER_GET_FEATURES,
  VHOST_USER_NEED_REPLY_MASK,
  VHOST_USER_PROTOCOL_F_REPLY_ACK,
} from '../../abi/vhost-user.ts';
import { InternalError, messageOf, PeerError } from '../../host/errors.ts';
import type { UnixSocket } from '../../host/unix-socket.ts';
import { hasFeature } from '../../virtio/features.ts';
import { Channel } from '../channel.ts';
import { FRONTEND_REQUESTS, type Message, protocolError, requestName } from '../message.ts';
import { readU64 } from '../payload.ts';

/** The backend closed the connection, or died; it may come back. */
export class BackendGone extends PeerError {}

const NO_FDS: readonly number[] = [];

/** Owns the socket. Each failure ends it: what is asked later fails likewise. */
export class Connection implements Disposable {
  /** Protocol features that are in force. */
  protocolFeatures = 0n;
  readonly #channel: Channel;
  readonly #timeoutMs: number;
  readonly #ended: (error: PeerError) => void;
  #error: PeerError | undefined;

  /**
   * @param socket owned from here on
   * @param timeoutMs for each answer
   * @param ended called once, unless it is disposed of before
   */
  constructor(socket: UnixSocket, timeoutMs: number, ended: (error: PeerError) => void) {
    this.#timeoutMs = timeoutMs;
    this.#ended = ended;
    const rules = { received: new Map(), sent: FRONTEND_REQUESTS };
    this.#channel = new Channel(socket, rules, {
      request: () => {
        throw new InternalError('a request that nobody may send was received');
      },
      closed: (error) => this.fail(error === undefined ? gone() : broken(error)),
    });
  }

  has(protocolFeature: number): boolean {
    return hasFeature(this.protocolFeatures, protocolFeature);
  }

  /**
   * Asks for something to be done; resolves when it is, as far as the backend says so.
   * @param fds stay the caller's
   * @throws PeerError when it is refused
   */
  async order(request: number, payload?: DataView, fds: readonly number[] = NO_FDS): Promise<void> {
    if (this.#error !== undefined) throw this.#error;
    if (!this.has(VHOST_USER_PROTOCOL_F_REPLY_ACK)) {
      this.#channel.send(request, 0, payload, fds);
      return;
    }
    const flags = VHOST_USER_NEED_REPLY_MASK;
    const code = this.#u64(await this.#call(request, flags, payload, fds));
    if (code !== 0n) throw this.fail(protocolError(`${name(request)} was refused (${code})`));
  }

  /** Resolves when the backend has seen all orders. @throws PeerError */
  async settle(): Promise<void> {
    // What has an answer by itself, where orders have none.
    if (!this.has(VHOST_USER_PROTOCOL_F_REPLY_ACK)) await this.askU64(VHOST_USER_GET_FEATURES);
  }

  /** Asks for an answer, whose descriptors are the caller's. @throws PeerError */
  ask(request: number, payload?: DataView): Promise<Message> {
    return this.#call(request, 0, payload, NO_FDS);
  }

  /** Asks for a number. @throws PeerError */
  async askU64(request: number): Promise<bigint> {
    return this.#u64(await this.ask(request));
  }

  /**
   * Takes an answer that has no descriptors.
   * @param bytes that its payload must have
   * @throws PeerError
   */
  plain(message: Message, bytes: number): Message {
    const { request, payload, fds } = message;
    const count = fds.length;
    for (const fd of fds.splice(0)) fd.close();
    if (count === 0 && payload.byteLength === bytes) return message;
    const got = `${payload.byteLength} bytes and ${count} file descriptors`;
    throw this.fail(protocolError(`${name(request)} was answered with ${got}, not ${bytes} bytes`));
  }

  /** Ends it. @returns the error that it ended with */
  fail(error: PeerError): PeerError {
    if (this.#error !== undefined) return this.#error;
    this.#error = error;
    this.#channel.close();
    this.#ended(error);
    return error;
  }

  [Symbol.dispose](): void {
    this.#error ??= gone();
    this.#channel.close();
  }

  async #call(
    request: number,
    flags: number,
    payload: DataView | undefined,
    fds: readonly number[],
  ): Promise<Message> {
    if (this.#error !== undefined) throw this.#error;
    // Referenced: somebody waits for the answer.
    const timer = setTimeout(() => {
      const late = `the backend left ${name(request)} unanswered for ${this.#timeoutMs} ms`;
      this.fail(new PeerError('E_VHOST_USER_TIMEOUT', late));
    }, this.#timeoutMs);
    try {
      return await this.#channel.call(request, flags, payload, fds);
    } catch (error) {
      throw this.#error ?? error;
    } finally {
      clearTimeout(timer);
    }
  }

  #u64(message: Message): bigint {
    return readU64(this.plain(message, 8));
  }
}

const name = (request: number): string => requestName(FRONTEND_REQUESTS, request);

function gone(): BackendGone {
  return new BackendGone('E_VHOST_USER_GONE', 'the backend closed the connection');
}

function broken(error: Error): PeerError {
  return error instanceof PeerError ? error : protocolError(messageOf(error));
}
