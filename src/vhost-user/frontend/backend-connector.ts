/** Connects to a backend, and reconnects to one that is gone. */
import { CleanupStack, Closeable } from '../../host/cleanup-stack.ts';
import { HostError, type PeerError, UsageError } from '../../host/errors.ts';
import { ListenPath } from '../../host/listen-path.ts';
import { LOOP_READABLE, LoopWatch } from '../../host/main-loop.ts';
import * as sys from '../../host/syscall.ts';
import { UnixSocket } from '../../host/unix-socket.ts';
import type { IotlbMessage } from '../../vhost/iotlb-message.ts';
import type { BackendAddress } from '../../virtio/frontend-device.ts';
import { BackendGone, FrontendSession } from './frontend-session.ts';

/** The pause between attempts to reconnect: it doubles from the first to the last. */
const FIRST_PAUSE_MS = 20;
const LAST_PAUSE_MS = 1000;

/** What a connector reports to its owner. */
export interface ConnectorEvents {
  /** The session is over; it reconnects if the backend is gone, not if it broke a rule. */
  disconnected(error: PeerError): void;
  reconnected(session: FrontendSession): void;
  /** The backend changed the device's configuration. */
  configChanged(): void;
  /** As of `SessionEvents`. */
  askedIotlb(message: IotlbMessage): Promise<boolean>;
}

/** Owns the socket, and the session on it. */
export class BackendConnector extends Closeable {
  readonly address: BackendAddress;
  events: ConnectorEvents | undefined;
  readonly #listening: ListenPath | undefined;
  readonly #listenFd: number;
  #session: FrontendSession | undefined;
  #timer: NodeJS.Timeout | undefined;
  #watch: LoopWatch | undefined;
  #reconnecting = false;
  #closed = false;

  /**
   * Connects.
   * @throws UsageError when there is no backend, PeerError when it breaks the protocol
   */
  static async open(address: BackendAddress): Promise<BackendConnector> {
    using stack = new CleanupStack();
    const connector = stack.use(new BackendConnector(address));
    await connector.connect();
    stack.move();
    return connector;
  }

  private constructor(address: BackendAddress) {
    super();
    this.address = address;
    this.#listening = address.server
      ? new ListenPath(address.socket, { forAll: address.peerUid !== undefined })
      : undefined;
    this.#listenFd = this.#listening?.takeFd() ?? -1;
  }

  /** While the backend is there. */
  get session(): FrontendSession | undefined {
    return this.#session;
  }

  /** True while the backend is gone, and may come back. */
  get reconnecting(): boolean {
    return this.#reconnecting;
  }

  /** Makes a session, while there is none and it does not reconnect. @throws UsageError or PeerError */
  async connect(): Promise<FrontendSession> {
    const socket = this.#listening === undefined ? this.#dial() : await this.#accept();
    this.#session = await this.#open(socket);
    return this.#session;
  }

  close(): void {
    this.#closed = true;
    this.#stopReconnecting();
    this.#endSession();
    this.#listening?.close();
    if (this.#listenFd >= 0) sys.close(this.#listenFd);
  }

  #dial(): UnixSocket {
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
          ? `no backend listens at ${file}`
          : `cannot connect to the backend at ${file}: ${code}`,
        absent
          ? 'start it first, or use server=on for one that connects'
          : 'check the permissions of that file',
        { cause: error },
      );
    }
  }

  #accept(): Promise<UnixSocket> {
    return new Promise((resolve, reject) => {
      const { socket: file, timeoutMs, peerUid } = this.address;
      // Keeps the process alive: a caller is waiting.
      const timer = setTimeout(() => {
        watch.close();
        const waited = `no backend connected to ${file} within ${timeoutMs} ms`;
        reject(new UsageError('E_VHOST_USER_SOCKET', waited, 'start it, or raise the timeout'));
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

  async #open(socket: UnixSocket): Promise<FrontendSession> {
    return await FrontendSession.open(socket, this.address.timeoutMs, {
      ended: (error) => this.#ended(error),
      configChanged: () => this.events?.configChanged(),
      askedIotlb: async (message) => (await this.events?.askedIotlb(message)) ?? false,
    });
  }

  #ended(error: PeerError): void {
    this.#endSession();
    if (error instanceof BackendGone) this.#reconnect(FIRST_PAUSE_MS);
    this.events?.disconnected(error);
  }

  #endSession(): void {
    this.#session?.close();
    this.#session = undefined;
  }

  /** Waits until the backend comes back, which does not keep the process alive. */
  #reconnect(pauseMs: number): void {
    if (this.#closed) return;
    this.#reconnecting = true;
    const again = (): void => this.#reconnect(Math.min(2 * pauseMs, LAST_PAUSE_MS));
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
        socket = this.#dial();
      } catch {
        again();
        return;
      }
      void this.#resume(socket, again);
    }, pauseMs).unref();
  }

  async #resume(socket: UnixSocket, again: () => void): Promise<void> {
    try {
      const session = await this.#open(socket);
      if (this.#closed) {
        session.close();
        return;
      }
      this.#reconnecting = false;
      this.#session = session;
      this.events?.reconnected(session);
    } catch (error) {
      if (this.#closed) return;
      // It may crash again during negotiation.
      if (error instanceof BackendGone) again();
      else {
        this.#reconnecting = false;
        this.events?.disconnected(error as PeerError);
      }
    }
  }

  #stopReconnecting(): void {
    this.#reconnecting = false;
    clearTimeout(this.#timer);
    this.#watch?.close();
    this.#watch = undefined;
  }
}
