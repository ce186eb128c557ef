/** A device behind a unix socket, for one frontend after the other. */
import path from 'node:path';
import { AsyncCloseable } from '../../host/cleanup-stack.ts';
import { HostError, messageOf } from '../../host/errors.ts';
import { ListenPath } from '../../host/listen-path.ts';
import { LOOP_READABLE, LoopWatch } from '../../host/main-loop.ts';
import { UnixSocket } from '../../host/unix-socket.ts';
import type { BackendDevice } from './backend-device.ts';
import { BackendSession } from './backend-session.ts';

/** How often a frontend that does not listen is tried, in milliseconds. */
const CONNECT_INTERVAL = 1000;

/** Keeps the process alive, and has one session at a time. The device stays its caller's. */
abstract class Backend extends AsyncCloseable {
  protected readonly device: BackendDevice;
  /** A user besides root and ourselves whose frontends are served. */
  protected readonly peerUid: number | undefined;
  #session: BackendSession | undefined;
  #idle: Promise<void> = Promise.resolve();

  constructor(device: BackendDevice, peerUid: number | undefined) {
    super();
    this.device = device;
    this.peerUid = peerUid;
  }

  /** Undefined while the device is free. */
  protected get session(): BackendSession | undefined {
    return this.#session;
  }

  /** Starts a session; the device is free. @param socket owned from here on */
  protected startSession(socket: UnixSocket): void {
    let free = (): void => {};
    try {
      this.#session = new BackendSession(socket, this.device, (error) => {
        if (error !== undefined) this.device.log(`disconnected: ${messageOf(error)}`);
        this.#session = undefined;
        this.sessionEnded();
        free();
      });
    } catch (error) {
      socket.close();
      this.device.log(messageOf(error));
      return;
    }
    this.#idle = new Promise((resolve) => {
      free = resolve;
    });
  }

  /** The device is free again. */
  protected sessionEnded(): void {}

  /** Ends the session, and waits until the device is free. */
  async close(): Promise<void> {
    this.#session?.close();
    await this.#idle;
  }
}

/** Frontends connect to it. Owns the socket's file. */
export class ListeningBackend extends Backend {
  readonly #listening: ListenPath;
  readonly #watch: LoopWatch;
  #closing = false;

  /**
   * @param peerUid a user besides root and ourselves whose frontends are served
   * @throws UsageError when the path cannot be listened on
   */
  constructor(file: string, device: BackendDevice, peerUid?: number) {
    super(device, peerUid);
    this.#listening = new ListenPath(file, { forAll: peerUid !== undefined });
    this.#watch = new LoopWatch(this.#listening.fd, LOOP_READABLE, () => this.#connected());
    this.#watch.hold(true);
  }

  /** Absolute. */
  get path(): string {
    return this.#listening.path;
  }

  override async close(): Promise<void> {
    this.#closing = true;
    this.#watch.close();
    this.#listening.close();
    await super.close();
  }

  protected override sessionEnded(): void {
    if (!this.#closing) this.#watch.set(LOOP_READABLE);
  }

  /** Others wait until the frontend leaves; one that has sent nothing yet is disconnected. */
  #connected(): void {
    if (this.session !== undefined) {
      this.#watch.set(0);
      if (!this.session.spoke) this.session.close();
      return;
    }
    try {
      const socket = UnixSocket.accept(this.#listening.fd, this.peerUid);
      if (socket !== undefined) this.startSession(socket);
    } catch (error) {
      this.device.log(messageOf(error));
    }
  }
}

/** Connects to a frontend that listens, and again whenever the session has ended. */
export class ConnectingBackend extends Backend {
  /** Absolute. */
  readonly path: string;
  readonly #timer: NodeJS.Timeout;
  /** Why the last attempt failed: logged once. */
  #reason = '';

  /** @param peerUid a user besides root and ourselves whose frontends are served */
  constructor(file: string, device: BackendDevice, peerUid?: number) {
    super(device, peerUid);
    this.path = path.resolve(file);
    this.#timer = setInterval(() => this.#connect(), CONNECT_INTERVAL);
    this.#connect();
  }

  override async close(): Promise<void> {
    clearInterval(this.#timer);
    await super.close();
  }

  #connect(): void {
    if (this.session !== undefined) return;
    let socket: UnixSocket;
    try {
      socket = UnixSocket.connect(this.path, this.peerUid);
    } catch (error) {
      const code = error instanceof HostError ? error.code : messageOf(error);
      if (code !== this.#reason) {
        this.device.log(`waiting for a frontend to listen at ${this.path} (${code})`);
      }
      this.#reason = code;
      return;
    }
    this.#reason = '';
    this.device.log(`connected to ${this.path}`);
    this.startSession(socket);
  }
}
