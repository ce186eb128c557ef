/** A device at a unix socket's path: frontends connect to it, one after the other. */
import { messageOf } from '../../host/errors.ts';
import { ListenPath } from '../../host/listen-path.ts';
import { LOOP_READABLE, LoopWatch } from '../../host/main-loop.ts';
import { UnixSocket } from '../../host/unix-socket.ts';
import type { ExportedDevice } from './exported-device.ts';
import { SessionSlot } from './session-slot.ts';

/** Keeps the process alive. Owns the socket's file; the device stays its caller's. */
export class ListeningBackend implements AsyncDisposable {
  readonly #exported: ExportedDevice;
  readonly #listening: ListenPath;
  readonly #watch: LoopWatch;
  readonly #fd: number;
  readonly #slot: SessionSlot;
  readonly #peerUid: number | undefined;
  #closing = false;

  /**
   * @param peerUid a user besides root and ourselves whose frontends are served
   * @throws UsageError when the path cannot be listened on
   */
  constructor(file: string, exported: ExportedDevice, peerUid?: number) {
    this.#exported = exported;
    this.#peerUid = peerUid;
    this.#slot = new SessionSlot(exported);
    this.#listening = new ListenPath(file, { forAll: peerUid !== undefined });
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
    await this.#slot.close();
  }

  /** A frontend that said nothing yet has to make room; others that are busy have others wait. */
  #connected(): void {
    const { session } = this.#slot;
    if (session !== undefined) {
      this.#watch.set(0);
      if (!session.spoke) session.close();
      return;
    }
    try {
      const socket = UnixSocket.accept(this.#fd, this.#peerUid);
      if (socket === undefined) return;
      this.#slot.open(socket, () => {
        if (!this.#closing) this.#watch.set(LOOP_READABLE);
      });
    } catch (error) {
      this.#exported.log(messageOf(error));
    }
  }
}
