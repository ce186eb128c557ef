/**
 * A piece of memory in which a backend notes what is in flight, kept here for the one that comes
 * after it (VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD). Nothing in it is read here.
 */
import { VHOST_USER_GET_INFLIGHT_FD, VHOST_USER_SET_INFLIGHT_FD } from '../../abi/vhost-user.ts';
import type { Fd } from '../../host/fd.ts';
import { protocolError } from '../message.ts';
import { type InflightArea, readInflight, writeInflight } from '../payload.ts';
import type { Connection } from './connection.ts';

const AREA_SIZE = 20;

/** Owns the memory's file. */
export class InflightRecord implements Disposable {
  readonly #file: Fd;
  readonly #area: InflightArea;

  /** Has the backend make one. @throws PeerError */
  static async get(
    connection: Connection,
    queues: number,
    queueSize: number,
  ): Promise<InflightRecord> {
    const wanted = { mmapSize: 0, mmapOffset: 0, queues, queueSize };
    const answer = await connection.ask(VHOST_USER_GET_INFLIGHT_FD, writeInflight(wanted));
    const { fds, payload } = answer;
    const file = fds.shift();
    const others = fds.splice(0);
    for (const fd of others) fd.close();
    if (file !== undefined && others.length === 0 && payload.byteLength >= AREA_SIZE) {
      return new InflightRecord(file, { ...readInflight(answer), queues, queueSize });
    }
    file?.close();
    throw connection.fail(
      protocolError('GET_INFLIGHT_FD was not answered with an area and its file descriptor'),
    );
  }

  private constructor(file: Fd, area: InflightArea) {
    this.#file = file;
    this.#area = area;
  }

  /** Gives it to a backend. @throws PeerError */
  async hand(connection: Connection): Promise<void> {
    const payload = writeInflight(this.#area);
    await connection.order(VHOST_USER_SET_INFLIGHT_FD, payload, [this.#file.fd]);
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}
