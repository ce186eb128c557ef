/**
 * The host's side of a socket device: unix sockets by the convention that Firecracker and Cloud
 * Hypervisor share. A program that connects to PATH writes `CONNECT PORT\n` and is joined to that
 * port of the guest; who listens on PATH_PORT is joined to guests that connect to that port.
 */
import { createServer, connect as netConnect, type Server, type Socket } from 'node:net';
import { ListenPath } from '../host/listen-path.ts';

/** The longest first line: `CONNECT`, a space, ten digits, and some more spaces. */
const LINE_MAX = 32;
/** Of the sockets beside it, which have names of their own. */
const LONGEST_SUFFIX = '_4294967295';
const REQUEST = /^CONNECT +([0-9]{1,10}) *\r?$/i;

/** Listens for programs of the host, and connects to them. */
export class VsockSockets implements Disposable {
  readonly #listening: ListenPath;
  readonly #server: Server;
  readonly #onRequest: (stream: Socket, port: number) => void;
  /** Programs that have not said yet where to. */
  readonly #greeting = new Set<Socket>();

  /**
   * @param limit the most connections to `path` at a time; those beyond are closed
   * @param onRequest gets a program's stream and the guest's port that it asked for
   * @throws UsageError or HostError when the socket cannot be made
   */
  constructor(path: string, limit: number, onRequest: (stream: Socket, port: number) => void) {
    this.#onRequest = onRequest;
    this.#listening = new ListenPath(path, LONGEST_SUFFIX);
    // Half-closed connections are passed on as such.
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#greet(socket));
    this.#server.maxConnections = limit;
    // Out of descriptors, for example: who connected is turned away, the others go on.
    this.#server.on('error', () => {});
    this.#server.listen({ fd: this.#listening.takeFd() });
    this.#server.unref();
  }

  /**
   * Connects to the program that listens on a port of the host.
   * @param accepted called once it did
   */
  connect(port: number, accepted: () => void): Socket {
    const path = `${this.#listening.path}_${port}`;
    const socket = netConnect({ path, allowHalfOpen: true }, accepted);
    return socket.unref();
  }

  /** Ends listening. Streams that were handed out are their holders' to close. */
  close(): void {
    this.#server.close();
    for (const socket of this.#greeting) socket.destroy();
    this.#listening.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #greet(socket: Socket): void {
    socket.unref();
    this.#greeting.add(socket);
    let said = Buffer.alloc(0);
    const hear = (): void => {
      const more: unknown = socket.read();
      if (!(more instanceof Buffer)) return;
      said = Buffer.concat([said, more]);
      const end = said.indexOf('\n');
      if (end < 0 && said.length < LINE_MAX) return;
      const line = said.toString('latin1', 0, Math.max(0, Math.min(end, LINE_MAX)));
      const port = Number(REQUEST.exec(line)?.[1] ?? Number.POSITIVE_INFINITY);
      done();
      if (port > 0xffff_ffff) {
        socket.destroy();
        return;
      }
      // The connection's first bytes may have come with the line.
      if (said.length > end + 1) socket.unshift(said.subarray(end + 1));
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
