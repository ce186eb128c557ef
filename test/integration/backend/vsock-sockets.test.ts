/** The unix sockets of a socket device: the first line, and which name reaches which program. */
import type { Buffer } from 'node:buffer';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import path from 'node:path';
import t from 'tap';
import { VsockSockets } from '../../../src/backend/vsock-sockets.ts';
import { testFolder } from '../../support/rigs/files.ts';

const folder = testFolder(t);
const file = path.join(folder, 'sock');

/** Sockets, and an iterator over the requests that come. */
function open(limit = 16): {
  sockets: VsockSockets;
  next(): Promise<{ stream: Socket; port: number }>;
} {
  const requests: { stream: Socket; port: number }[] = [];
  let notify: () => void = () => {};
  const sockets = new VsockSockets(file, limit, (stream, port) => {
    requests.push({ stream, port });
    notify();
  });
  const next = async () => {
    for (;;) {
      const request = requests.shift();
      if (request !== undefined) return request;
      await new Promise<void>((resolve) => {
        notify = resolve;
      });
    }
  };
  return { sockets, next };
}

async function textOf(stream: Socket): Promise<string> {
  let text = '';
  stream.on('data', (part: Buffer) => {
    text += part.toString();
  });
  await once(stream, 'end');
  return text;
}

t.test('CONNECT PORT', async (t) => {
  const { sockets, next } = open();
  for (const [line, port, rest] of [
    ['CONNECT 52\n', 52, ''],
    ['connect 0\nwith its first bytes', 0, 'with its first bytes'],
    ['CONNECT  4294967295 \r\n\n', 0xffff_ffff, '\n'],
  ] as const) {
    const program = connect({ path: file, allowHalfOpen: true });
    program.end(line);
    const request = await next();
    t.equal(request.port, port);
    t.equal(await textOf(request.stream), rest, 'what came with the line follows, and the end');
    request.stream.end('answer');
    t.equal(await textOf(program), 'answer', 'the other direction is still open');
    program.destroy();
  }
  const slow = connect(file);
  for (const piece of 'CONNECT 7\n') {
    slow.write(piece);
    await new Promise(setImmediate);
  }
  const request = await next();
  t.equal(request.port, 7, 'in pieces');
  request.stream.destroy();
  slow.destroy();
  sockets.close();
});

t.test('other first lines are turned away', async (t) => {
  const { sockets } = open();
  for (const line of [
    'CONNECT\n',
    'CONNECT 4294967296\n',
    'CONNECT 99999999999\n',
    'CONNECT -1\n',
    'CONNECT 0x10\n',
    'CONNECT 1 2\n',
    'GET / HTTP/1.1\r\n\r\n',
    '\n',
    'x'.repeat(32),
    `CONNECT ${' '.repeat(40)}1\n`,
  ]) {
    const program = connect(file);
    program.write(line);
    t.equal(await textOf(program), '', JSON.stringify(line.slice(0, 20)));
    program.destroy();
  }
  const silent = connect({ path: file, allowHalfOpen: true });
  silent.end();
  t.equal(await textOf(silent), '', 'no line at all');
  sockets.close();
});

t.test('the guest reaches the listener on PATH_PORT', async (t) => {
  const { sockets } = open();
  const server = createServer((socket) => socket.end('hello'));
  await new Promise<void>((resolve) => server.listen(`${file}_52`, resolve));
  let accepted = false;
  const stream = sockets.connect(52, () => {
    accepted = true;
  });
  stream.ref();
  t.equal(await textOf(stream), 'hello');
  t.ok(accepted);
  stream.destroy();
  await new Promise((resolve) => server.close(resolve));
  const refused = sockets.connect(53, () => t.fail('no listener'));
  refused.ref();
  const [error] = (await once(refused, 'error')) as [Error];
  t.match(error.message, 'ENOENT');
  sockets.close();
});

t.test('no more programs than the limit, and none is left behind', async (t) => {
  const { sockets, next } = open(2);
  const first = connect(file);
  first.write('CONNECT 1\n');
  const held = await next();
  const second = connect(file);
  await once(second, 'connect');
  const third = connect(file);
  await once(third, 'close');
  t.pass('the third is closed');
  const ended = once(second, 'close');
  sockets.close();
  await ended;
  t.notOk(held.stream.destroyed, 'what was handed out is not');
  held.stream.destroy();
  first.destroy();
  t.same(readdirSync(folder), []);
});
