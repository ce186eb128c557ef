/**
 * The host's side of a socket device: unix sockets by the convention that Firecracker and Cloud
 * Hypervisor share. A program that connects to PATH writes `CONNECT PORT\n` and is joined to that
 * port of the guest; a guest that connects to a port reaches the program listening on PATH_PORT.
 */
import { createServer, type Server, Socket } from 'node:net';
import { Closeable } from '../host/cleanup-stack.ts';
import { ListenPath } from '../host/listen-path.ts';
import { UnixSocket } from '../host/unix-socket.ts';

/** The longest first line: `CONNECT`, a space, ten digits, and some more spaces. */
const LINE_MAX = 32;
/** Of the sockets next to it, which have names of their own. */
const LONGEST_SUFFIX = '_4294967295';
const REQUEST = /^CONNECT +([0-9]{1,10}) *\r?$/i;

/** Listens for programs of the host, and connects to them. */
export class VsockSockets extends Closeable {
  readonly #listening: ListenPath;
  readonly #server: Server;
  readonly #onRequest: (stream: Socket, port: number) => void;
  readonly #peerUid: number | undefined;
  /** Programs that have not sent their CONNECT line yet. */
  readonly #greeting = new Set<Socket>();

  /**
   * @param limit the most connections to `path` at a time; those beyond are closed
   * @param onRequest gets a program's stream and the guest's port it connects to
   * @param peerUid user that may listen on `PATH_PORT`, besides root and this one
   * @throws UsageError or HostError when the socket cannot be made
   */
  constructor(
    path: string,
    limit: number,
    onRequest: (stream: Socket, port: number) => void,
    peerUid?: number,
  ) {
    super();
    this.#onRequest = onRequest;
    this.#peerUid = peerUid;
    this.#listening = new ListenPath(path, { suffix: LONGEST_SUFFIX });
    // Half-closed connections are passed on as such.
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#greet(socket));
    this.#server.maxConnections = limit;
    // Out of descriptors, for example: the new client is turned away, the others continue.
    this.#server.on('error', () => {});
    this.#server.listen({ fd: this.#listening.takeFd() });
    this.#server.unref();
  }

  /**
   * Connects to the program that listens on a port of the host.
   * @param accepted called once it did, later
   * @returns its stream, which fails later without a listener, or with another user's
   */
  connect(port: number, accepted: () => void): Socket {
    try {
      const connected = UnixSocket.connect(`${this.#listening.path}_${port}`, this.#peerUid);
      const ways = { allowHalfOpen: true, readable: true, writable: true };
      const socket = new Socket({ fd: connected.release(), ...ways });
      setImmediate(() => {
        if (!socket.destroyed) accepted();
      });
      return socket.unref();
    } catch (error) {
      return new Socket().destroy(error as Error);
    }
  }

  /** Ends listening. Streams that were handed out are their holders' to close. */
  close(): void {
    this.#server.close();
    for (const socket of this.#greeting) socket.destroy();
    this.#listening.close();
  }

  #greet(socket: Socket): void {
    socket.unref();
    this.#greeting.add(socket);
    let received = Buffer.alloc(0);
    const hear = (): void => {
      const more: unknown = socket.read();
      if (!(more instanceof Buffer)) return;
      received = Buffer.concat([received, more]);
      const end = received.indexOf('\n');
      if (end < 0 && received.length < LINE_MAX) return;
      const line = received.toString('latin1', 0, Math.max(0, Math.min(end, LINE_MAX)));
      const port = Number(REQUEST.exec(line)?.[1] ?? Number.POSITIVE_INFINITY);
      done();
      if (port > 0xffff_ffff) {
        socket.destroy();
        return;
      }
      // The connection's first bytes may have come with the line.
      if (received.length > end + 1) socket.unshift(received.subarray(end + 1));
      this.#onRequest(socket, port);
    };
    const refuse = (): void => void socket.destroy();
    const done = (): void => {
      this.#greeting.delete(socket);
      socket.off('readable', hear).off('end', refuse).off('error', refuse).off('close', done);
    };
    socket.on('readable', hear).on('end', refuse).on('error', refuse).on('close', done);
  }
}
