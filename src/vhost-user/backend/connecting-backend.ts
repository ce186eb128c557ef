/** A device that calls frontends: they listen at a unix socket's path, one after the other. */
import path from 'node:path';
import { HostError, messageOf } from '../../host/errors.ts';
import { UnixSocket } from '../../host/unix-socket.ts';
import type { ExportedDevice } from './exported-device.ts';
import { SessionSlot } from './session-slot.ts';

/** How often one is called that is not there, in milliseconds. */
const INTERVAL = 1000;

/** Keeps the process alive. The device stays its caller's. */
export class ConnectingBackend implements AsyncDisposable {
  /** Absolute. */
  readonly path: string;
  readonly #exported: ExportedDevice;
  readonly #timer: NodeJS.Timeout;
  readonly #slot: SessionSlot;
  readonly #peerUid: number | undefined;
  /** Why nobody was reached, as it was said last. */
  #why = '';

  /** @param peerUid a user besides root and ourselves whose frontends are served */
  constructor(file: string, exported: ExportedDevice, peerUid?: number) {
    this.#peerUid = peerUid;
    this.path = path.resolve(file);
    this.#exported = exported;
    this.#slot = new SessionSlot(exported);
    this.#timer = setInterval(() => this.#call(), INTERVAL);
    this.#call();
  }

  /** Ends the session, and waits until the device is free. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#slot.close();
  }

  #call(): void {
    if (this.#slot.session !== undefined) return;
    let socket: UnixSocket;
    try {
      socket = UnixSocket.connect(this.path, this.#peerUid);
    } catch (error) {
      const code = error instanceof HostError ? error.code : messageOf(error);
      if (code !== this.#why) {
        this.#exported.log(`waiting for a frontend to listen at ${this.path} (${code})`);
      }
      this.#why = code;
      return;
    }
    this.#why = '';
    this.#exported.log(`connected to ${this.path}`);
    this.#slot.open(socket);
  }
}
