/** A device at a unix socket's path: front ends connect to it, one after the other. */
import { messageOf } from '../../host/errors.ts';
import { ListenPath } from '../../host/listen-path.ts';
import { LOOP_READABLE, LoopWatch } from '../../host/main-loop.ts';
import { UnixSocket } from '../../host/unix-socket.ts';
import type { ExportedDevice } from './exported-device.ts';
import { Session } from './session.ts';

/** Keeps the process alive. Owns the socket's file; the device stays its caller's. */
export class BackEnd implements AsyncDisposable {
  readonly #exported: ExportedDevice;
  readonly #listening: ListenPath;
  readonly #watch: LoopWatch;
  readonly #fd: number;
  #session: Session | undefined;
  #closing = false;
  #idle: Promise<void> = Promise.resolve();

  /** @throws UsageError when the path cannot be listened on */
  constructor(file: string, exported: ExportedDevice) {
    this.#exported = exported;
    this.#listening = new ListenPath(file);
    this.#fd = this.#listening.fd;
    this.#watch = new LoopWatch(this.#fd, LOOP_READABLE, () => this.#connected());
    this.#watch.hold(true);
  }

  /** Absolute. */
  get path(): string {
    return this.#listening.path;
  }

  /** Ends the session, and waits until the device is free. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true;
    this.#watch.close();
    this.#listening.close();
    this.#session?.close();
    await this.#idle;
  }

  /** A front end that said nothing yet has to make room; others that are busy have others wait. */
  #connected(): void {
    if (this.#session !== undefined) {
      this.#watch.set(0);
      if (!this.#session.spoke) this.#session.close();
      return;
    }
    try {
      const socket = UnixSocket.accept(this.#fd);
      if (socket === undefined) return;
      try {
        this.#open(socket);
      } catch (error) {
        socket.close();
        throw error;
      }
    } catch (error) {
      this.#exported.log(messageOf(error));
    }
  }

  #open(socket: UnixSocket): void {
    let free = (): void => {};
    this.#session = new Session(socket, this.#exported, (error) => {
      if (error !== undefined) this.#exported.log(`disconnected: ${messageOf(error)}`);
      this.#session = undefined;
      if (!this.#closing) this.#watch.set(LOOP_READABLE);
      free();
    });
    this.#idle = new Promise((resolve) => {
      free = resolve;
    });
  }
}
