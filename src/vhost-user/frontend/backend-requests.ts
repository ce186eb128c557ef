/** The channel on which a backend asks the frontend (VHOST_USER_PROTOCOL_F_BACKEND_REQ). */
import {
  VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
  VHOST_USER_SET_BACKEND_REQ_FD,
} from '../../abi/vhost-user.ts';
import { PeerError } from '../../host/errors.ts';
import { UnixSocket } from '../../host/unix-socket.ts';
import { Channel } from '../channel.ts';
import { BACKEND_REQUESTS, protocolError } from '../message.ts';
import type { Connection } from './connection.ts';

/** Owns our end of it. */
export class BackendRequests implements Disposable {
  readonly #channel: Channel;

  /**
   * Gives the backend its end.
   * @param configChanged the backend changed the configuration space
   * @throws PeerError
   */
  static async open(connection: Connection, configChanged: () => void): Promise<BackendRequests> {
    const [ours, theirs] = UnixSocket.pair();
    const requests = new BackendRequests(connection, ours, configChanged);
    try {
      await connection.order(VHOST_USER_SET_BACKEND_REQ_FD, undefined, [theirs.fd]);
      return requests;
    } catch (error) {
      requests[Symbol.dispose]();
      throw error;
    } finally {
      theirs.close();
    }
  }

  private constructor(connection: Connection, ours: UnixSocket, configChanged: () => void) {
    const rules = { received: BACKEND_REQUESTS, sent: new Map() };
    this.#channel = new Channel(ours, rules, {
      request: (message) => {
        if (message.request === VHOST_USER_BACKEND_CONFIG_CHANGE_MSG) configChanged();
        this.#channel.acknowledge(message, true);
      },
      // One that closes this channel alone has nothing more to say.
      closed: (error) => {
        if (error === undefined) return;
        connection.fail(error instanceof PeerError ? error : protocolError(error.message));
      },
    });
  }

  [Symbol.dispose](): void {
    this.#channel.close();
  }
}
