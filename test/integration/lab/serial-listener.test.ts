/** The emulator's serial port comes over TCP, where any user of the host may come first. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import t from 'tap';
import { SerialListener } from '../../../src/lab/serial-listener.ts';

const TOKEN = '0123456789abcdef';

const closeOf = (socket: Socket): Promise<void> =>
  new Promise((resolve) => {
    socket.once('close', () => resolve());
  });

async function client(port: number): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => {});
  await once(socket, 'connect');
  return socket;
}

t.test('what follows the token is the conversation, in pieces of any size', async (t) => {
  using listener = await SerialListener.open(TOKEN);
  const machine = await client(listener.port);
  for (const letter of TOKEN) {
    machine.write(letter);
    await new Promise((resolve) => setImmediate(resolve));
  }
  machine.write('hello');
  const ours = await listener.connection();
  const [received] = (await once(ours, 'data')) as [Buffer];
  t.equal(received.toString(), 'hello');
  ours.write('answer');
  const [answer] = (await once(machine, 'data')) as [Buffer];
  t.equal(answer.toString(), 'answer');
  ours.destroy();
});

t.test('token and more in one piece', async (t) => {
  using listener = await SerialListener.open(TOKEN);
  const machine = await client(listener.port);
  machine.write(`${TOKEN}hello`);
  const ours = await listener.connection();
  const [received] = (await once(ours, 'data')) as [Buffer];
  t.equal(received.toString(), 'hello');
  ours.destroy();
});

t.test('strangers are closed, and do not keep the machine out', async (t) => {
  using listener = await SerialListener.open(TOKEN);
  const silent = await client(listener.port);
  const wrong = await client(listener.port);
  const gone = closeOf(wrong);
  wrong.write(TOKEN.replace('0', '1'));
  await gone;
  const brief = await client(listener.port);
  brief.end('012');
  const machine = await client(listener.port);
  const silentGone = closeOf(silent);
  machine.write(TOKEN);
  const ours = await listener.connection();
  await silentGone;
  t.equal(ours.remotePort, machine.localPort);
  const late = connect(machine.remotePort as number, '127.0.0.1');
  const [refused] = (await once(late, 'error')) as [NodeJS.ErrnoException];
  t.equal(refused.code, 'ECONNREFUSED', 'there is no second one');
  ours.destroy();
});

t.test('a flood of strangers is bounded', async (t) => {
  using listener = await SerialListener.open(TOKEN);
  const strangers = await Promise.all(Array.from({ length: 40 }, () => client(listener.port)));
  const closed = strangers.map(closeOf);
  await Promise.race(closed);
  t.ok(strangers.some((socket) => socket.destroyed));
  t.notOk(strangers.every((socket) => socket.destroyed));
  listener[Symbol.dispose]();
  await Promise.all(closed);
});
