/** Forwarded ports, with the real agent. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import t from 'tap';
import { AgentClient } from '../../../src/agent/client.ts';
import { type ForwardedPorts, PortForward } from '../../../src/agent/forward.ts';
import { startAgent } from '../../support/rigs/agent.ts';

const BIG = Buffer.alloc(1_000_000, 'forward');

const folder = mkdtempSync(join(tmpdir(), 'nodevmm-forward-'));
const path = join(folder, 'socket');
const servers: Server[] = [];
const sockets = new Set<Socket>();

/** What listens "in the guest": echoes all at the end of what it got. */
async function listen(at: string | number): Promise<number> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket.on('error', () => {}));
    void received(socket).then(
      (bytes) => socket.end(bytes),
      () => {},
    );
  });
  servers.push(server);
  await once(server.listen(at), 'listening');
  return (server.address() as { port: number }).port ?? 0;
}

async function received(stream: Duplex): Promise<Buffer> {
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(stream, 'end');
  return Buffer.concat(chunks);
}

async function echo(port: number | undefined): Promise<Buffer> {
  const client = connect({ port: port ?? 0, host: '127.0.0.1', allowHalfOpen: true });
  client.end(BIG);
  return await received(client);
}

const port = await listen(0);
await listen(path);
const { stream, ended } = await startAgent();
const agent = new AgentClient(stream);
t.teardown(async () => {
  agent.close();
  await ended;
  for (const server of servers) server.close();
  for (const socket of sockets) socket.destroy();
  rmSync(folder, { recursive: true });
});
const never = new Promise(() => {});

t.test('each kind of target, with half-closes, many at a time', async (t) => {
  for (const target of [port, `127.0.0.1:${port}`, `[::1]:${port}`, `unix:${path}`]) {
    await using forward = await PortForward.open(agent, { 0: target }, never);
    const [one, two] = await Promise.all([echo(forward.ports[0]), echo(forward.ports[0])]);
    t.ok(one.equals(BIG) && two.equals(BIG), String(target));
  }
});

t.test('several ports, by those that were requested', async (t) => {
  const probe = await PortForward.open(agent, { 0: port }, never);
  const free = probe.ports[0] ?? 0;
  await probe.close();
  await using forward = await PortForward.open(agent, { 0: port, [free]: `unix:${path}` }, never);
  t.equal(forward.ports[free], free);
  t.not(forward.ports[0], 0);
  t.ok((await echo(free)).equals(BIG));
});

t.test('nobody listens in the guest: the client is reset', async (t) => {
  await using forward = await PortForward.open(agent, { 0: `unix:${path}-none` }, never);
  const client = connect({ port: forward.ports[0] ?? 0, host: '127.0.0.1' });
  client.resume();
  const [error] = await once(client, 'error');
  t.match(error, { code: 'ECONNRESET' });
});

t.test('what cannot be forwarded', async (t) => {
  const refused: [ForwardedPorts, RegExp][] = [
    [{ 70000: 80 }, /^a port must be 0 to 65535, not 70000$/],
    [{ 0: 0 }, /^a port must be 1 to 65535, not 0$/],
    [{ 0: 1.5 }, /^a port must be 1 to 65535, not 1\.5$/],
    [{ 0: 'example.org:80' }, /^cannot forward to "example\.org:80": it must be a port, /],
    [{ 0: 'unix:relative' }, /^cannot forward to "unix:relative"/],
    [{ [port]: 80, 0: 80 }, /^cannot listen on 127\.0\.0\.1:\d+: EADDRINUSE; use another port/],
  ];
  for (const [ports, message] of refused) {
    await t.rejects(PortForward.open(agent, ports, never), { code: 'E_FORWARD', message });
  }
});

t.test('a client beyond the limit is reset, the others stay', async (t) => {
  await using forward = await PortForward.open(agent, { 0: `unix:${path}` }, never);
  const at = { port: forward.ports[0] ?? 0, host: '127.0.0.1', allowHalfOpen: true };
  const client = (): Socket => connect(at);
  const clients = new Set<Socket>();
  const reset = new Promise<void>((resolve) => {
    for (let i = 0; i < 129; i++) {
      const one = client().on('error', () => {
        clients.delete(one);
        resolve();
      });
      clients.add(one);
    }
  });
  await reset;
  const answers = [...clients].map((one) => received(one.end('still')));
  for (const answer of await Promise.all(answers)) if (String(answer) !== 'still') t.fail();
  t.equal(clients.size, 128);
});

t.test('the end of the machine ends it, and its connections', async (t) => {
  let end: () => void = () => {};
  const machine = new Promise<void>((resolve) => {
    end = resolve;
  });
  const forward = await PortForward.open(agent, { 0: port }, machine);
  const client = connect({ port: forward.ports[0] ?? 0, host: '127.0.0.1' });
  await once(client, 'connect');
  const failed = once(client, 'error');
  end();
  t.match((await failed)[0], { code: 'ECONNRESET' });
  const again = connect({ port: forward.ports[0] ?? 0, host: '127.0.0.1' });
  t.match((await once(again, 'error'))[0], { code: 'ECONNREFUSED' });
  await forward.close();
});

t.test('the end of the agent resets clients', async (t) => {
  const { stream, ended } = await startAgent();
  const other = new AgentClient(stream);
  await using forward = await PortForward.open(other, { 0: port }, never);
  const client = connect({ port: forward.ports[0] ?? 0, host: '127.0.0.1' });
  await once(client, 'connect');
  const failed = once(client, 'error');
  other.close();
  t.match((await failed)[0], { code: 'ECONNRESET' });
  const again = connect({ port: forward.ports[0] ?? 0, host: '127.0.0.1' }).resume();
  t.match((await once(again, 'error'))[0], { code: 'ECONNRESET' }, 'nothing can be started');
  await ended;
});
