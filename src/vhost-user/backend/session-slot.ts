/** The one session that a device has at a time. */
import { messageOf } from '../../host/errors.ts';
import type { UnixSocket } from '../../host/unix-socket.ts';
import type { ExportedDevice } from './exported-device.ts';
import { Session } from './session.ts';

/** The device stays its caller's. */
export class SessionSlot {
  readonly #exported: ExportedDevice;
  #session: Session | undefined;
  #idle: Promise<void> = Promise.resolve();

  constructor(exported: ExportedDevice) {
    this.#exported = exported;
  }

  /** Undefined while the device is free. */
  get session(): Session | undefined {
    return this.#session;
  }

  /**
   * Starts one. The device is free. What fails is logged.
   * @param socket owned from here on
   * @param left called when the device is free again
   */
  open(socket: UnixSocket, left: () => void = () => {}): void {
    let free = (): void => {};
    try {
      this.#session = new Session(socket, this.#exported, (error) => {
        if (error !== undefined) this.#exported.log(`disconnected: ${messageOf(error)}`);
        this.#session = undefined;
        left();
        free();
      });
    } catch (error) {
      socket.close();
      this.#exported.log(messageOf(error));
      return;
    }
    this.#idle = new Promise((resolve) => {
      free = resolve;
    });
  }

  /** Ends the session, and waits until the device is free. */
  async close(): Promise<void> {
    this.#session?.close();
    await this.#idle;
  }
}
