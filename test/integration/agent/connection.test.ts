/** Connections through the real agent to sockets of this host. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import t from 'tap';
import { AgentClient } from '../../../src/agent/client.ts';
import {
  connectTcp,
  connectUnix,
  type GuestConnection,
} from '../../../src/agent/guest-connection.ts';
import { startAgent } from '../../support/rigs/agent.ts';

const BIG = Buffer.alloc(5_000_000, 'half-close');

/** All up to its end. Unlike an iteration, it leaves the other direction open. */
async function received(stream: Duplex): Promise<Buffer> {
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(stream.resume(), 'end');
  return Buffer.concat(chunks);
}

/** An agent, and a server at a unix socket and at a port. */
async function withServer(
  serve: (socket: Socket) => void,
  work: (place: { agent: AgentClient; path: string; port: number }) => Promise<void>,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'nodevmm-connect-'));
  const path = join(folder, 'socket');
  const sockets = new Set<Socket>();
  const listen = async (at: string | number): Promise<Server> => {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      sockets.add(socket.on('error', () => {}));
      serve(socket);
    });
    await once(server.listen(at), 'listening');
    return server;
  };
  const servers = [await listen(path), await listen(0)];
  const address = servers[1]?.address() as { port: number };
  const { stream, ended } = await startAgent();
  const agent = new AgentClient(stream);
  try {
    await work({ agent, path, port: address.port });
  } finally {
    agent.close();
    await ended;
    for (const server of servers) server.close();
    for (const socket of sockets) socket.destroy();
    rmSync(folder, { recursive: true });
  }
}

t.test('both kinds carry bytes, and the end of each direction', (t) =>
  withServer(
    (socket) => void received(socket).then((bytes) => socket.end(bytes)),
    async ({ agent, path, port }) => {
      for (const connect of [
        () => connectUnix(agent, path),
        () => connectTcp(agent, port),
        () => connectTcp(agent, port, '127.0.0.1'),
        () => connectTcp(agent, port, '::1'),
      ]) {
        const connection = connect();
        t.equal(connection.connecting, true);
        connection.end(BIG);
        t.ok((await received(connection)).equals(BIG), 'answered after our end');
        await once(connection, 'close');
        t.equal(connection.connecting, false);
      }
    },
  ),
);

t.test('the peer ends first: what is written then still arrives', (t) => {
  const got: Promise<Buffer>[] = [];
  return withServer(
    (socket) => {
      socket.end('bye');
      got.push(received(socket));
    },
    async ({ agent, path, port }) => {
      const options = { allowHalfOpen: true };
      for (const connect of [
        () => connectUnix(agent, path, options),
        () => connectTcp(agent, port, undefined, options),
      ]) {
        const connection = connect();
        t.equal(String(await received(connection)), 'bye');
        connection.end(BIG);
        await once(connection, 'close');
        t.ok((await got.pop())?.equals(BIG));
      }
    },
  );
});

t.test('by default our end follows the peer’s', (t) =>
  withServer(
    (socket) => socket.end('bye'),
    async ({ agent, path }) => {
      const connection = connectUnix(agent, path);
      t.equal(String(await received(connection)), 'bye');
      await once(connection, 'close');
      t.equal(connection.writableFinished, true);
    },
  ),
);

t.test('a peer that goes while we say nothing: the connection ends', (t) =>
  withServer(
    (socket) => socket.destroy(),
    async ({ agent, path }) => {
      const connection = connectUnix(agent, path, { allowHalfOpen: true });
      connection.resume();
      await once(connection, 'end');
      const failed = once(connection, 'error');
      // The first one may still find the process in the guest, which ends meanwhile.
      const writing = setInterval(() => connection.write('to nobody'), 10);
      const [error] = await failed;
      clearInterval(writing);
      t.match(error, { code: 'EPIPE', syscall: 'write', address: path });
    },
  ),
);

t.test('a reset is an error, not an end', (t) =>
  withServer(
    (socket) => {
      socket.write('some');
      socket.once('data', () => socket.resetAndDestroy());
    },
    async ({ agent, port }) => {
      const connection = connectTcp(agent, port);
      connection.write('x');
      await t.rejects(received(connection), { code: 'ECONNRESET', syscall: 'read', errno: -104 });
    },
  ),
);

t.test('nobody listens', (t) =>
  withServer(
    () => {},
    async ({ agent, path }) => {
      const refused = async (connection: GuestConnection): Promise<unknown> =>
        (await once(connection, 'error'))[0];
      t.match(await refused(connectUnix(agent, `${path}-none`)), {
        code: 'ENOENT',
        errno: -2,
        syscall: 'connect',
        address: `${path}-none`,
        message: `ENOENT: no such file or directory, connect ${path}-none in the guest`,
      });
      t.match(await refused(connectUnix(agent, '/etc/passwd')), { code: 'ECONNREFUSED' });
      t.match(await refused(connectTcp(agent, 1)), {
        code: 'ECONNREFUSED',
        address: 'localhost:1',
      });
      t.match(await refused(connectTcp(agent, 1, '::1')), { address: '[::1]:1' });
      t.match(await refused(connectTcp(agent, 1, 'example.org')), { code: 'EINVAL' });
      t.match(await refused(connectUnix(agent, `/${'x'.repeat(200)}`)), { code: 'ENAMETOOLONG' });
      t.throws(() => connectUnix(agent, 'a\0b'), { code: 'E_ARGV' });
    },
  ),
);

t.test('destroy drops what is on its way, also before the connection is made', (t) => {
  const sockets: Socket[] = [];
  return withServer(
    (socket) => sockets.push(socket.pause()),
    async ({ agent, path }) => {
      await once(connectUnix(agent, path).destroy(), 'close');
      const connection = connectUnix(agent, path);
      connection.write(BIG);
      await once(connection, 'connect');
      connection.destroy();
      await once(connection, 'close');
      const got = await received(sockets.at(-1) as Socket);
      t.ok(got.length < BIG.length, `the peer got ${got.length} bytes`);
    },
  );
});

t.test('the end of the agent ends connections with its reason', (t) =>
  withServer(
    (socket) => socket.write('hello'),
    async ({ agent, path }) => {
      const connection = connectUnix(agent, path);
      await once(connection, 'data');
      agent.close();
      const [error] = await once(connection, 'error');
      t.match(error, { code: 'E_AGENT_CLOSED' });
    },
  ),
);
