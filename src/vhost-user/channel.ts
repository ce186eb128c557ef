/** One vhost-user connection: whole messages in both directions, on the event loop. */
import { EAGAIN, EINTR } from '../abi/errno.ts';
import {
  VHOST_USER_NEED_REPLY_MASK,
  VHOST_USER_REPLY_MASK,
  vhost_user_header,
} from '../abi/vhost-user.ts';
import { Closeable } from '../host/cleanup-stack.ts';
import type { Fd } from '../host/fd.ts';
import { LOOP_READABLE, LOOP_WRITABLE, LoopWatch } from '../host/main-loop.ts';
import { NativeMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';
import { MAX_FDS, TOO_MANY_FDS, type UnixSocket } from '../host/unix-socket.ts';
import {
  checkFds,
  checkHeader,
  encodeHeader,
  type Header,
  MAX_PAYLOAD,
  type Message,
  protocolError,
  type RequestRules,
  requestName,
} from './message.ts';
import { writeU64 } from './payload.ts';

const HEADER = vhost_user_header.size;
/** Bytes that may be queued for a peer that does not read. */
const MAX_UNSENT = 256 * 1024;

/** What a channel reports to its owner. */
export interface ChannelEvents {
  /**
   * A request of the peer, whose number, length and descriptors were checked. The next one is not
   * read until the promise settles; a rejection ends the connection. Descriptors left in `fds` are
   * closed.
   */
  request(message: Message): Promise<void> | void;
  /**
   * The connection is over; called once.
   * @param error absent when the peer closed it between two messages, or its owner did
   */
  closed(error?: Error): void;
}

/** The requests that the peer and this end may send. */
export interface ChannelRules {
  readonly received: RequestRules;
  readonly sent: RequestRules;
}

interface Outgoing {
  readonly bytes: NativeMemory;
  sent: number;
  readonly fds: readonly number[];
  /** To be closed once it is sent. */
  readonly file?: Fd;
}

interface Awaited {
  readonly request: number;
  resolve(reply: Message): void;
  reject(error: Error): void;
}

const NO_FDS: readonly number[] = [];
/** What a socket returns when the peer is gone; any other errno is a failure. */
const GONE: readonly string[] = ['EPIPE', 'ECONNRESET', 'ENOTCONN'];

/** The call is repeated when the socket is ready, which an interrupted one still is. */
const isForLater = (result: number): boolean => result === -EAGAIN || result === -EINTR;

/** Owns the socket. It keeps the process alive only while a reply is awaited. */
export class Channel extends Closeable {
  readonly #socket: UnixSocket;
  readonly #rules: ChannelRules;
  readonly #events: ChannelEvents;
  readonly #watch: LoopWatch;
  readonly #incoming = new NativeMemory(HEADER + MAX_PAYLOAD);
  /** Of the message that is being received. */
  #received = 0;
  #header: Header | undefined;
  #fds: Fd[] = [];
  #busy = false;
  #open = true;
  readonly #outgoing: Outgoing[] = [];
  #unsent = 0;
  readonly #awaited: Awaited[] = [];

  /** @param socket owned from here on */
  constructor(socket: UnixSocket, rules: ChannelRules, events: ChannelEvents) {
    super();
    this.#socket = socket;
    this.#rules = rules;
    this.#events = events;
    this.#watch = new LoopWatch(socket.fd, LOOP_READABLE, (ready) => this.#ready(ready));
  }

  get open(): boolean {
    return this.#open;
  }

  /**
   * Sends a message; what the socket does not take at once follows when it has room.
   * @param fds stay the caller's, and must stay open until the message is sent
   */
  send(request: number, flags = 0, payload?: DataView, fds: readonly number[] = NO_FDS): void {
    if (this.#open) this.#enqueue(request, flags, payload, { fds });
  }

  /**
   * Replies to a request.
   * @param file sent along; owned from here on
   */
  reply({ request }: Message, payload: DataView, file?: Fd): void {
    const flags = VHOST_USER_REPLY_MASK;
    if (!this.#open) file?.close();
    else if (file === undefined) this.#enqueue(request, flags, payload, { fds: NO_FDS });
    else this.#enqueue(request, flags, payload, { fds: [file.fd], file });
  }

  #enqueue(
    request: number,
    flags: number,
    payload: DataView | undefined,
    files: Pick<Outgoing, 'fds' | 'file'>,
  ): void {
    const size = payload?.byteLength ?? 0;
    const bytes = new NativeMemory(HEADER + size);
    bytes.bytes.set(encodeHeader(request, flags, size));
    if (payload !== undefined) {
      bytes.bytes.set(new Uint8Array(payload.buffer, payload.byteOffset, size), HEADER);
    }
    this.#unsent += bytes.bytes.length;
    this.#outgoing.push({ bytes, sent: 0, ...files });
    if (this.#unsent > MAX_UNSENT) this.#end(protocolError('it does not read what it is sent'));
    else this.#flush();
  }

  /** Acknowledges a request that has no reply of its own, if its sender asked for it (REPLY_ACK). */
  acknowledge(message: Message, success: boolean): void {
    if ((message.flags & VHOST_USER_NEED_REPLY_MASK) === 0) return;
    this.reply(message, writeU64(success ? 0 : 1));
  }

  /**
   * Sends a request and waits for its reply, whose payload is unchecked. The caller takes or closes
   * the descriptors that come with it.
   * @throws PeerError when the connection ends first, or the reply is to another request
   */
  call(
    request: number,
    flags = 0,
    payload?: DataView,
    fds: readonly number[] = NO_FDS,
  ): Promise<Message> {
    return new Promise((resolve, reject) => {
      if (!this.#open) {
        reject(protocolError('the connection is closed'));
        return;
      }
      this.#awaited.push({ request, resolve, reject });
      this.#watch.hold(true);
      this.send(request, flags, payload, fds);
    });
  }

  /** Ends the connection; unsent messages are dropped. */
  close(): void {
    this.#end();
  }

  /** Ends the connection for a reason that its owner found. */
  fail(error: Error): void {
    this.#end(error);
  }

  #ready(events: number): void {
    if ((events & LOOP_WRITABLE) !== 0) this.#flush();
    if ((events & LOOP_READABLE) !== 0 && !this.#busy) this.#receive();
  }

  #receive(): void {
    try {
      // Messages wait in the socket's buffer, so that a peer cannot make them use memory here.
      while (this.#open && !this.#busy && this.#fill());
    } catch (error) {
      this.#end(error as Error);
    }
  }

  /** One system call's worth. Returns false when there is no more for now. @throws PeerError */
  #fill(): boolean {
    const wanted = HEADER + (this.#header?.size ?? 0);
    if (this.#received < wanted) {
      const count = this.#socket.receive(
        this.#incoming,
        this.#received,
        wanted - this.#received,
        this.#fds,
      );
      if (isForLater(count)) return false;
      if (count === TOO_MANY_FDS || this.#fds.length > MAX_FDS) {
        throw protocolError(`more than ${MAX_FDS} file descriptors in a message`);
      }
      if (count <= 0) {
        this.#hungUp(count);
        return false;
      }
      this.#received += count;
      if (this.#received < wanted) return true;
    }
    if (this.#header === undefined) {
      this.#header = checkHeader(this.#incoming.view, this.#rules.received);
      if (this.#header.size > 0) return true;
    }
    this.#deliver(this.#header);
    return true;
  }

  #hungUp(result: number): void {
    const between = this.#received === 0 && this.#fds.length === 0;
    // ECONNRESET: the peer closed with our bytes unread.
    const reset = result < 0 && GONE.includes(sys.errnoName(-result));
    if (result === 0 || reset) {
      this.#end(between ? undefined : protocolError('the connection ended within a message'));
    } else {
      sys.check(result, 'recvmsg', 'a vhost-user connection');
    }
  }

  #deliver({ request, flags, size }: Header): void {
    const bytes = this.#incoming.bytes.slice(HEADER, HEADER + size);
    const message: Message = {
      request,
      flags,
      payload: new DataView(bytes.buffer),
      fds: this.#fds,
    };
    this.#received = 0;
    this.#header = undefined;
    this.#fds = [];
    if ((flags & VHOST_USER_REPLY_MASK) !== 0) this.#answered(message);
    else this.#requested(message);
  }

  #answered(message: Message): void {
    const awaited = this.#awaited.shift();
    this.#watch.hold(this.#awaited.length > 0);
    if (awaited?.request === message.request) {
      awaited.resolve(message);
      return;
    }
    for (const fd of message.fds) fd.close();
    const name = requestName(this.#rules.sent, message.request);
    const error = protocolError(`an unsolicited reply to ${name}`);
    awaited?.reject(error);
    throw error;
  }

  #requested(message: Message): void {
    const release = (): void => {
      for (const fd of message.fds.splice(0)) fd.close();
    };
    try {
      checkFds(message, this.#rules.received);
      const done = this.#events.request(message);
      if (!(done instanceof Promise)) {
        release();
        return;
      }
      this.#busy = true;
      this.#await();
      done.then(
        () => {
          release();
          this.#busy = false;
          this.#await();
          this.#receive();
        },
        (error: Error) => {
          release();
          this.#end(error);
        },
      );
    } catch (error) {
      release();
      throw error;
    }
  }

  #flush(): void {
    while (this.#open) {
      const first = this.#outgoing[0];
      if (first === undefined) break;
      const { bytes, sent, fds } = first;
      const left = bytes.bytes.length - sent;
      const count = this.#socket.send(bytes, sent, left, sent === 0 ? fds : NO_FDS);
      if (isForLater(count)) break;
      if (count < 0) {
        // The peer is gone; what it sent before can still be read.
        if (GONE.includes(sys.errnoName(-count))) this.#drop();
        else this.#end(sys.callError(count, 'sendmsg', 'a vhost-user connection'));
        break;
      }
      first.file?.close();
      first.sent += count;
      this.#unsent -= count;
      if (count === left) this.#outgoing.shift();
    }
    this.#await();
  }

  /** Drops unsent messages. */
  #drop(): void {
    for (const { file } of this.#outgoing.splice(0)) file?.close();
  }

  /** Watches for the events that this end is ready for. */
  #await(): void {
    if (!this.#open) return;
    const writable = this.#outgoing.length === 0 ? 0 : LOOP_WRITABLE;
    this.#watch.set((this.#busy ? 0 : LOOP_READABLE) | writable);
  }

  #end(error?: Error): void {
    if (!this.#open) return;
    this.#open = false;
    this.#watch.close();
    this.#socket.close();
    for (const fd of this.#fds.splice(0)) fd.close();
    this.#drop();
    for (const { request, reject } of this.#awaited.splice(0)) {
      const name = requestName(this.#rules.sent, request);
      reject(error ?? protocolError(`the connection ended before the reply to ${name}`));
    }
    this.#events.closed(error);
  }
}
