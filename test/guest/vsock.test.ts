/** Stream sockets between Linux in a guest and programs of the host. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import path from 'node:path';
import t from 'tap';
import { MiB } from '../../src/memory/ram-layout.ts';
import { sha256, testFolder } from '../support/rigs/files.ts';
import { bootGuest, guestShell, vsockAnswer } from '../support/rigs/guest.ts';

const folder = testFolder(t);
const file = path.join(folder, 'vm.sock');
const BIG = randomBytes(10 * MiB);

/** Reads a stream to its end. */
async function readAll(socket: Socket): Promise<Buffer> {
  const parts: Buffer[] = [];
  socket.on('data', (part: Buffer) => parts.push(part));
  await once(socket, 'end');
  return Buffer.concat(parts);
}

/** Connects to a port of the guest, once it is joined: after its OK line. */
async function dial(port: number): Promise<Socket> {
  const socket = connect({ path: file, allowHalfOpen: true });
  socket.write(`CONNECT ${port}\n`);
  let line = '';
  while (!line.endsWith('\n')) {
    const byte: unknown = socket.read(1);
    if (byte instanceof Buffer) line += byte.toString();
    else
      await new Promise<void>((resolve) => socket.once('readable', resolve).once('end', resolve));
    if (socket.readableEnded) throw new Error('refused');
  }
  if (!/^OK \d+\n$/.test(line)) throw new Error(`the device answered ${JSON.stringify(line)}`);
  return socket;
}

/** Listens for the guest. */
async function listen(port: number, serve: (socket: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, serve);
  server.listen(`${file}_${port}`);
  await once(server, 'listening');
  return server;
}

/** A host program in its own process: prints a line when it is connected. */
async function program(source: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['-e', `const net = require('node:net'); ${source}`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout as NodeJS.ReadableStream, 'data');
  return child;
}

for (const [name, ring] of [
  ['split rings', {}],
  ['packed rings', { packed: true, inOrder: true }],
] as const) {
  t.test(name, async (t) => {
    const vm = await bootGuest({
      append: 'nodevmm.shell=0',
      machine: { vsock: { cid: 42, path: file, ring } },
    });
    const sh = (script: string): Promise<string> => guestShell(vm, script);
    /** A guest's program that runs once for each connection to a port. */
    const serve = async (port: number, ...argv: string[]): Promise<void> => {
      const listener = vm.spawn(['nodevmm-agent', 'vsock', 'listen', `${port}`, ...argv]);
      await once(listener.stdout, 'data');
    };
    try {
      await t.test('the guest has its driver', async (t) => {
        t.equal(
          await sh(
            'basename $(readlink /sys/bus/virtio/drivers/vmw_vsock_virtio_transport/virtio*/driver)',
          ),
          'vmw_vsock_virtio_transport',
        );
      });

      await t.test('the host connects: 10 MiB there and back at once', async (t) => {
        await serve(52, 'cat');
        const socket = await dial(52);
        const back = readAll(socket);
        socket.end(BIG);
        t.equal(sha256(await back), sha256(BIG));
      });

      await t.test('the host connects: a half-close reaches the guest', async (t) => {
        await serve(53, 'sha256sum');
        const socket = await dial(53);
        const answer = readAll(socket);
        socket.end(BIG);
        t.match((await answer).toString(), sha256(BIG));
        t.equal(socket.readableEnded, true);
      });

      await t.test('the program of the machine connects', async (t) => {
        t.match((await vsockAnswer(vm, 53, BIG)).toString(), sha256(BIG));
        const [error] = await once(vm.connect(999), 'error');
        t.match(error, { code: 'ECONNREFUSED', address: 'vsock:42:999' });
      });

      await t.test('the guest connects: 10 MiB each way, a half-close between', async (t) => {
        let digest = '';
        const server = await listen(60, (socket) => {
          readAll(socket).then((bytes) => {
            digest = sha256(bytes);
            socket.end(BIG);
          });
        });
        const [sent, got] = (
          await sh(`head -c 10485760 /dev/urandom >/tmp/sent
            sha256sum </tmp/sent
            nodevmm-agent vsock connect 2 60 </tmp/sent | sha256sum`)
        ).split('\n');
        t.match(sent, digest);
        t.match(got, sha256(BIG));
        server.close();
      });

      await t.test('a program that does not read holds the guest back', async (t) => {
        await serve(54, 'sh', '-c', `head -c ${BIG.length} /dev/zero; echo >/tmp/all-sent`);
        const held = await dial(54);
        const other = await dial(52);
        const back = readAll(other);
        other.end(BIG.subarray(0, MiB));
        t.equal(sha256(await back), sha256(BIG.subarray(0, MiB)), 'another is not held back');
        t.equal(await sh('ls /tmp/all-sent 2>/dev/null || true'), '', 'it still sends');
        const all = readAll(held);
        t.equal((await all).length, BIG.length, 'and continues when it is read');
        held.destroy();
      });

      await t.test('200 connections at once', async (t) => {
        const sockets = await Promise.all(Array.from({ length: 200 }, () => dial(52)));
        const answers = await Promise.all(
          sockets.map((socket, index) => {
            const back = readAll(socket);
            socket.end(`${index} `.repeat(1000));
            return back;
          }),
        );
        t.ok(answers.every((bytes, index) => bytes.toString() === `${index} `.repeat(1000)));
      });

      await t.test('no listener', async (t) => {
        t.match(
          await sh('nodevmm-agent vsock connect 2 999 </dev/null 2>&1 || echo status $?'),
          /connect: Connection reset by peer\nstatus 1/,
        );
        t.match(
          await sh('nodevmm-agent vsock connect 7 60 </dev/null 2>&1 || echo status $?'),
          /connect: Connection reset by peer\nstatus 1/,
          'nor is there another guest',
        );
        await t.rejects(dial(999), /refused/);
      });

      await t.test('a program of the host dies', async (t) => {
        const server = await program(`
          net.createServer((socket) => socket.once('data', () => console.log('received')))
            .listen('${file}_61', () => console.log('listening'))`);
        const client = vm.exec(['nodevmm-agent', 'vsock', 'connect', '2', '61'], {
          input: BIG.subarray(0, MiB),
        });
        await once(server.stdout as NodeJS.ReadableStream, 'data');
        server.kill('SIGKILL');
        const { exitCode } = await client;
        t.ok(exitCode === 0 || exitCode === 1, `the guest's program ends, with ${exitCode}`);

        await serve(55, 'sh', '-c', 'cat >/tmp/received; echo over >/tmp/over');
        const dialer = await program(`
          const socket = net.connect('${file}', () => socket.write('CONNECT 55\\nhello'));
          socket.once('data', () => console.log('joined'))`);
        dialer.kill('SIGKILL');
        t.equal(await sh('until [ -e /tmp/over ]; do sleep 0.1; done; cat /tmp/received'), 'hello');
      });

      await t.test('the guest’s program dies', async (t) => {
        await serve(56, 'sh', '-c', 'echo started; kill -9 $$');
        const socket = await dial(56);
        t.equal((await readAll(socket)).toString(), 'started\n');
        socket.destroy();
      });

      await t.test('connections live through a pause', async (t) => {
        const socket = await dial(52);
        const back = readAll(socket);
        socket.write(BIG.subarray(0, MiB));
        await vm.pause();
        socket.end(BIG.subarray(MiB, 2 * MiB));
        await vm.resume();
        t.equal(sha256(await back), sha256(BIG.subarray(0, 2 * MiB)));
      });

      await t.test('a driver that goes takes its connections along, and comes back', async (t) => {
        const socket = await dial(52);
        const gone = readAll(socket);
        await sh(`cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport
          id=$(basename virtio*); echo $id >unbind; echo $id >bind`);
        await gone;
        await serve(57, 'cat');
        const again = await dial(57);
        const back = readAll(again);
        again.end('again');
        t.equal((await back).toString(), 'again');
      });
    } finally {
      await vm[Symbol.asyncDispose]();
    }
    t.notOk(existsSync(file), 'no socket is left');
    for (const left of readdirSync(folder)) rmSync(path.join(folder, left));
  });
}
