/** Connections to vsock ports through a socket device's unix socket, with the device's own switch behind it. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import t from 'tap';
import { VsockSockets } from '../../../src/backend/vsock-sockets.ts';
import { connectVsock } from '../../../src/machine/vsock-connection.ts';

const BIG = Buffer.alloc(1_000_000, 'vsock');
const folder = mkdtempSync(join(tmpdir(), 'nodevmm-vsock-'));
t.teardown(() => rmSync(folder, { recursive: true }));
let count = 0;

async function received(stream: Duplex): Promise<Buffer> {
  const chunks: Buffer[] = [];
  stream.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(stream, 'end');
  return Buffer.concat(chunks);
}

/** A device whose guest does this with a connection. */
function deviceOf(guest: (stream: Socket, port: number) => void): { cid: number; path: string } {
  count += 1;
  const path = join(folder, `${count}.sock`);
  const sockets = new VsockSockets(path, 16, guest);
  t.teardown(() => sockets.close());
  return { cid: 3, path };
}

t.test('bytes and half-closes, both ways', async (t) => {
  const device = deviceOf((stream, port) => {
    stream.write(`OK 1073741824\nport ${port} `);
    void received(stream).then((bytes) => stream.end(bytes));
  });
  const connection = connectVsock(device, 'userspace', 52);
  const closed = once(connection, 'close');
  connection.end(BIG);
  await once(connection, 'connect');
  const bytes = await received(connection);
  t.equal(bytes.toString('latin1', 0, 8), 'port 52 ');
  t.ok(bytes.subarray(8).equals(BIG));
  await closed;
});

t.test('nothing listens', async (t) => {
  const refusing = deviceOf((stream) => stream.destroy());
  const [error] = await once(connectVsock(refusing, 'userspace', 52), 'error');
  t.match(error, {
    code: 'ECONNREFUSED',
    syscall: 'connect',
    address: 'vsock:3:52',
    message: 'ECONNREFUSED: connection refused, connect vsock:3:52 in the guest',
  });
  const gone = connectVsock({ cid: 3, path: join(folder, 'none') }, 'userspace', 52);
  t.match((await once(gone, 'error'))[0], { code: 'ECONNREFUSED' });
});

t.test('a program at the path that is no device', async (t) => {
  const path = join(folder, 'other');
  const server = createServer((socket) => socket.write('x'.repeat(100)));
  await once(server.listen(path), 'listening');
  const [error] = await once(connectVsock({ cid: 3, path }, undefined, 52), 'error');
  t.match(error, { code: 'ECONNREFUSED' });
  server.close();
});

t.test('what cannot be connected', async (t) => {
  t.throws(() => connectVsock(undefined, undefined, 52), {
    code: 'E_VSOCK',
    message:
      "this machine has no socket device; create it with one: vsock: { cid: 3, path: 'vm.sock' }",
  });
  for (const port of [-1, 1.5, 2 ** 32]) {
    t.throws(() => connectVsock({ cid: 3, path: '/x' }, undefined, port), { code: 'E_VSOCK' });
  }
});

t.test('with vhost, a process has the AF_VSOCK socket', async (t) => {
  // No guest has this context ID here; whether there is a transport at all is the host's.
  const [error] = await once(connectVsock({ cid: 0xffff_fff0 }, 'vhost', 52), 'error');
  t.match(error, { name: 'GuestSystemError', syscall: 'connect', address: 'vsock:4294967280:52' });
});
