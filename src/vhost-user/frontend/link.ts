/** The way to one backend: the first connection, and the next ones when it dies and comes back. */
import { VHOST_USER_PROTOCOL_F_BACKEND_REQ } from '../../abi/vhost-user.ts';
import { HostError, type PeerError, UsageError } from '../../host/errors.ts';
import { ListenPath } from '../../host/listen-path.ts';
import { LOOP_READABLE, LoopWatch } from '../../host/main-loop.ts';
import * as sys from '../../host/syscall.ts';
import { UnixSocket } from '../../host/unix-socket.ts';
import { BackendRequests } from './backend-requests.ts';
import { BackendGone, Connection } from './connection.ts';
import { negotiate, type Offer } from './negotiate.ts';

/** The pause between attempts to reach a backend that is gone: doubled from the first to the last. */
const FIRST_PAUSE_MS = 20;
const LAST_PAUSE_MS = 1000;

/** Where the backend is to be found. */
export interface BackendAddress {
  /** Path of the socket. */
  readonly socket: string;
  /** True: it connects to us. */
  readonly server: boolean;
  /** For each answer, and for it to connect. */
  readonly timeoutMs: number;
  /** A user besides root and ourselves whose backend may have the guest's memory. */
  readonly peerUid?: number | undefined;
}

/** A connection, and what its backend offers. */
export interface Session {
  readonly connection: Connection;
  readonly offer: Offer;
}

/** What the owner of a link is told. */
export interface LinkEvents {
  /** The session is over; another is sought if the backend is gone, not if it broke a rule. */
  down(error: PeerError): void;
  /** There is a session again. */
  up(session: Session): void;
  /** The backend changed the device's configuration. */
  configChanged(): void;
}

/** Owns the socket, and the connection on it. */
export class BackendLink {
  readonly address: BackendAddress;
  events: LinkEvents | undefined;
  readonly #listening: ListenPath | undefined;
  readonly #listenFd: number;
  #session: Session | undefined;
  #requests: BackendRequests | undefined;
  #timer: NodeJS.Timeout | undefined;
  #watch: LoopWatch | undefined;
  #seeking = false;
  #closed = false;

  /**
   * Connects.
   * @throws UsageError when nobody is there, PeerError when who is breaks the protocol; one line
   */
  static async open(address: BackendAddress): Promise<BackendLink> {
    const link = new BackendLink(address);
    try {
      await link.connect();
      return link;
    } catch (error) {
      link.close();
      throw error;
    }
  }

  private constructor(address: BackendAddress) {
    this.address = address;
    this.#listening = address.server
      ? new ListenPath(address.socket, { forAll: address.peerUid !== undefined })
      : undefined;
    this.#listenFd = this.#listening?.takeFd() ?? -1;
  }

  /** While the backend is there. */
  get session(): Session | undefined {
    return this.#session;
  }

  /** True while it is gone and sought. */
  get seeking(): boolean {
    return this.#seeking;
  }

  /** Makes a session: there is none, and none is sought. @throws UsageError or PeerError */
  async connect(): Promise<Session> {
    const socket = this.#listening === undefined ? this.#call() : await this.#awaitCall();
    const session = await this.#greet(socket);
    this.#session = session;
    return session;
  }

  close(): void {
    this.#closed = true;
    this.#stopSeeking();
    this.#endSession();
    this.#listening?.close();
    if (this.#listenFd >= 0) sys.close(this.#listenFd);
  }

  #call(): UnixSocket {
    const { socket: file, peerUid } = this.address;
    try {
      return UnixSocket.connect(file, peerUid);
    } catch (error) {
      if (!(error instanceof HostError)) throw error;
      const { code } = error;
      const absent = code === 'ENOENT' || code === 'ECONNREFUSED';
      throw new UsageError(
        'E_VHOST_USER_SOCKET',
        absent
          ? `no backend listens at ${file}; start it first, or use server=on for one that connects`
          : `cannot connect to the backend at ${file}: ${code}; see the rights of that file`,
        { cause: error },
      );
    }
  }

  #awaitCall(): Promise<UnixSocket> {
    return new Promise((resolve, reject) => {
      const { socket: file, timeoutMs, peerUid } = this.address;
      // Referenced: somebody waits for it.
      const timer = setTimeout(() => {
        watch.close();
        const waited = `no backend connected to ${file} within ${timeoutMs} ms`;
        reject(new UsageError('E_VHOST_USER_SOCKET', `${waited}; start it, or give it more time`));
      }, timeoutMs);
      const watch = new LoopWatch(this.#listenFd, LOOP_READABLE, () => {
        const socket = UnixSocket.accept(this.#listenFd, peerUid);
        if (socket === undefined) return;
        watch.close();
        clearTimeout(timer);
        resolve(socket);
      });
    });
  }

  /** The first words on a new connection. */
  async #greet(socket: UnixSocket): Promise<Session> {
    let greeted = false;
    const connection = new Connection(socket, this.address.timeoutMs, (error) => {
      if (greeted) this.#lost(error);
    });
    try {
      const offer = await negotiate(connection);
      if (connection.has(VHOST_USER_PROTOCOL_F_BACKEND_REQ)) {
        this.#requests = await BackendRequests.open(connection, () => this.events?.configChanged());
      }
      greeted = true;
      return { connection, offer };
    } catch (error) {
      connection[Symbol.dispose]();
      throw error;
    }
  }

  #lost(error: PeerError): void {
    this.#endSession();
    if (error instanceof BackendGone) this.#seek(FIRST_PAUSE_MS);
    this.events?.down(error);
  }

  #endSession(): void {
    const session = this.#session;
    this.#session = undefined;
    this.#requests?.[Symbol.dispose]();
    this.#requests = undefined;
    session?.connection[Symbol.dispose]();
  }

  /** Waits until it comes back; that keeps no process alive. */
  #seek(pauseMs: number): void {
    if (this.#closed) return;
    this.#seeking = true;
    const again = (): void => this.#seek(Math.min(2 * pauseMs, LAST_PAUSE_MS));
    if (this.#listening !== undefined) {
      this.#watch = new LoopWatch(this.#listenFd, LOOP_READABLE, () => {
        const socket = UnixSocket.accept(this.#listenFd, this.address.peerUid);
        if (socket === undefined) return;
        this.#watch?.close();
        this.#watch = undefined;
        void this.#resume(socket, again);
      });
      return;
    }
    this.#timer = setTimeout(() => {
      let socket: UnixSocket;
      try {
        socket = this.#call();
      } catch {
        again();
        return;
      }
      void this.#resume(socket, again);
    }, pauseMs).unref();
  }

  async #resume(socket: UnixSocket, again: () => void): Promise<void> {
    try {
      const session = await this.#greet(socket);
      if (this.#closed) {
        session.connection[Symbol.dispose]();
        return;
      }
      this.#seeking = false;
      this.#session = session;
      this.events?.up(session);
    } catch (error) {
      if (this.#closed) return;
      // It may die again while it greets.
      if (error instanceof BackendGone) again();
      else {
        this.#seeking = false;
        this.events?.down(error as PeerError);
      }
    }
  }

  #stopSeeking(): void {
    this.#seeking = false;
    clearTimeout(this.#timer);
    this.#watch?.close();
    this.#watch = undefined;
  }
}
