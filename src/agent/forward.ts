/** Ports of this host whose clients are connected to what listens in the guest. */
import { once } from 'node:events';
import { createServer, isIP, type Server, type Socket } from 'node:net';
import { pipeline } from 'node:stream';
import { AsyncCleanupStack, AsyncCloseable } from '../host/cleanup-stack.ts';
import { messageOf, UsageError } from '../host/errors.ts';
import type { CommandSpawner } from './command.ts';
import { connectTcp, connectUnix, type GuestConnection } from './guest-connection.ts';

/** A place in the guest: a TCP port of it, `ADDRESS:PORT` (`[ADDRESS]:PORT` for IPv6), or `unix:PATH`. */
export type ForwardTarget = number | string;

/** Where clients of this host's ports get to. Port 0 stands for a free one. */
export type ForwardedPorts = Readonly<Record<number, ForwardTarget>>;

/** Other users of the host reach the ports, too; the guests' do not. */
const LISTEN = '127.0.0.1';
/** Each takes one of the commands that an agent runs at a time. */
const CONNECTIONS_MAX = 128;
const PORT_MAX = 65_535;

type Connect = (spawner: CommandSpawner) => GuestConnection;

/** Forwards ports until it is closed. */
export class PortForward extends AsyncCloseable {
  /** The bound ports by the requested ones. */
  readonly ports: Readonly<Record<number, number>>;
  readonly #owned: AsyncCleanupStack;

  private constructor(ports: Readonly<Record<number, number>>, owned: AsyncCleanupStack) {
    super();
    this.ports = ports;
    this.#owned = owned;
  }

  /**
   * Listens on 127.0.0.1. A client that the guest refuses, or that is one too many, is reset.
   * @param ended when it settles, the forwarding ends
   * @throws UsageError (E_FORWARD) when a port or target is none, or cannot be listened on
   */
  static async open(
    spawner: CommandSpawner,
    targets: ForwardedPorts,
    ended: Promise<unknown>,
  ): Promise<PortForward> {
    const plan = Object.entries(targets).map(([port, target]) => ({
      port: checkedPort(port, 0),
      connect: connectorOf(target),
    }));
    await using owned = new AsyncCleanupStack();
    const clients = new Set<Socket>();
    owned.defer(() => {
      for (const client of clients) client.resetAndDestroy();
    });
    const ports: Record<number, number> = {};
    for (const { port, connect } of plan) {
      const server = createServer({ allowHalfOpen: true }, (client) => {
        carry(client, () => connect(spawner), clients);
      });
      await listen(server, port);
      owned.defer(() => void server.close());
      ports[port] = (server.address() as { port: number }).port;
    }
    const forward = new PortForward(ports, owned.move());
    const close = (): void => void forward.close();
    ended.then(close, close);
    return forward;
  }

  /** Ends listening, and resets the connections. */
  async close(): Promise<void> {
    await this.#owned.disposeAsync();
  }
}

/** Joins a client to the guest, in both directions. */
function carry(client: Socket, connect: () => GuestConnection, clients: Set<Socket>): void {
  client.on('error', () => {});
  if (clients.size >= CONNECTIONS_MAX) {
    client.resetAndDestroy();
    return;
  }
  clients.add(client);
  client.once('close', () => clients.delete(client));
  try {
    const connection = connect();
    // A connection that was refused must not look like one that ended.
    connection.once('error', () => client.resetAndDestroy());
    pipeline(client, connection, () => {});
    pipeline(connection, client, () => {});
  } catch {
    client.resetAndDestroy();
  }
}

async function listen(server: Server, port: number): Promise<void> {
  try {
    await once(server.listen(port, LISTEN), 'listening');
    server.on('error', () => {});
  } catch (error) {
    const { code = messageOf(error) } = error as NodeJS.ErrnoException;
    throw new UsageError(
      'E_FORWARD',
      `cannot listen on ${LISTEN}:${port}: ${code}`,
      'use another port, or 0 for a free one',
    );
  }
}

function connectorOf(target: unknown): Connect {
  if (typeof target === 'number') {
    const port = checkedPort(String(target), 1);
    return (spawner) => connectTcp(spawner, port, 'localhost', { allowHalfOpen: true });
  }
  const text = String(target);
  const path = /^unix:(\/[^\0]*)$/.exec(text)?.[1];
  if (path !== undefined) return (spawner) => connectUnix(spawner, path, { allowHalfOpen: true });
  const [, bracketed, plain, port] = /^(?:\[([^\]]+)\]|([^:]+)):(\d+)$/.exec(text) ?? [];
  const host = bracketed ?? plain ?? '';
  if (port === undefined || (isIP(host) === 0 && host !== 'localhost')) {
    throw new UsageError(
      'E_FORWARD',
      `cannot forward to ${JSON.stringify(target)}: it must be a port, ADDRESS:PORT, [ADDRESS]:PORT or unix:PATH`,
    );
  }
  const number = checkedPort(port, 1);
  return (spawner) => connectTcp(spawner, number, host, { allowHalfOpen: true });
}

function checkedPort(text: string, least: number): number {
  const port = Number(text);
  if (/^\d+$/.test(text) && port >= least && port <= PORT_MAX) return port;
  throw new UsageError('E_FORWARD', `a port must be ${least} to ${PORT_MAX}, not ${text}`);
}
