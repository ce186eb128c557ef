/** Where an emulator brings a serial port: a TCP port on the loopback, which any user of the host can reach. */

import { timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { Closeable } from '../host/cleanup-stack.ts';

/** Connections at a time that have not shown the token yet. */
const MOST_STRANGERS = 16;

/** Waits for the one connection that begins with a token; all others are closed. */
export class SerialListener extends Closeable {
  readonly #server: Server;
  readonly #token: Buffer;
  readonly #strangers = new Set<Socket>();
  readonly #known: Promise<Socket>;

  private constructor(server: Server, token: string) {
    super();
    this.#server = server;
    this.#token = Buffer.from(token, 'latin1');
    this.#known = new Promise((resolve) => {
      server.on('connection', (socket) => this.#meet(socket, resolve));
    });
  }

  /** @param token what the machine sends first */
  static async open(token: string): Promise<SerialListener> {
    const server = createServer();
    const listener = new SerialListener(server, token);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return listener;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** The connection that showed the token; from then on there are no others. */
  connection(): Promise<Socket> {
    return this.#known;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#strangers) socket.destroy();
  }

  #meet(socket: Socket, known: (socket: Socket) => void): void {
    if (this.#strangers.size >= MOST_STRANGERS) {
      socket.destroy();
      return;
    }
    this.#strangers.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => this.#strangers.delete(socket));
    const look = (): void => {
      const received = socket.read(this.#token.length) as Buffer | null;
      if (received === null) return;
      if (received.length !== this.#token.length || !timingSafeEqual(received, this.#token)) {
        socket.destroy();
        return;
      }
      socket.removeListener('readable', look);
      this.#strangers.delete(socket);
      this.close();
      known(socket);
    };
    socket.on('readable', look);
  }
}
