import { once } from 'node:events';
import { Duplex } from 'node:stream';
import t from 'tap';
import { PortConnection } from '../../../src/machine/guest-agent.ts';

/** A port that keeps what is written to it. */
class FakeStream extends Duplex {
  readonly written: string[] = [];
  override _read(): void {}
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.written.push(chunk.toString());
    done();
  }
}

t.test('bytes pass both ways', async (t) => {
  const port = new FakeStream();
  const connection = new PortConnection(port);
  await new Promise((done) => connection.write('down', done));
  t.same(port.written, ['down']);
  port.push('up');
  const [bytes] = await once(connection, 'data');
  t.equal(bytes.toString(), 'up');
});

t.test('the port outlives the conversation, and serves the next one', async (t) => {
  const port = new FakeStream();
  const first = new PortConnection(port);
  first.destroy();
  await once(first, 'close');
  t.equal(port.destroyed, false);
  t.equal(port.listenerCount('data'), 0);
  const second = new PortConnection(port);
  port.push('again');
  const [bytes] = await once(second, 'data');
  t.equal(bytes.toString(), 'again');
});

t.test('a conversation that is not read holds the port back, and loses nothing', async (t) => {
  const port = new FakeStream();
  const connection = new PortConnection(port);
  const piece = Buffer.alloc(16 * 1024, 0x61);
  const pieces = 64;
  for (let i = 0; i < pieces; i++) {
    port.push(piece);
    await new Promise((done) => setImmediate(done));
  }
  t.equal(port.isPaused(), true);
  t.ok(connection.readableLength < connection.readableHighWaterMark + piece.length);
  let got = 0;
  connection.on('data', (bytes: Buffer) => {
    got += bytes.length;
  });
  while (got < pieces * piece.length) await new Promise((done) => setImmediate(done));
  t.equal(got, pieces * piece.length);
});

t.test('what the guest does not take is waited for', async (t) => {
  const taken: (() => void)[] = [];
  const port = new Duplex({
    read() {},
    write(_chunk: Buffer, _encoding, done) {
      taken.push(done);
    },
  });
  const connection = new PortConnection(port);
  const piece = Buffer.alloc(16 * 1024);
  let written = 0;
  while (connection.write(piece)) written += piece.length;
  t.ok(written <= connection.writableHighWaterMark, 'the writer has to wait');
  await new Promise((done) => setImmediate(done));
  t.equal(taken.length, 1, 'the port holds one piece');
  const drained = once(connection, 'drain');
  for (let i = 0; i * piece.length <= written; i++) {
    while (taken[i] === undefined) await new Promise((done) => setImmediate(done));
    taken[i]?.();
  }
  await drained;
});

t.test('the guest closes the port: its output is read, then the end', async (t) => {
  const port = new FakeStream();
  const connection = new PortConnection(port);
  port.push('last words');
  await new Promise((done) => setImmediate(done));
  port.emit('guestOpen', false);
  port.push('of another one');
  let text = '';
  for await (const chunk of connection) text += String(chunk);
  t.equal(text, 'last words');
  connection.destroy();
  if (!connection.closed) await once(connection, 'close');
  t.equal(port.destroyed, false);
  t.same([port.listenerCount('data'), port.listenerCount('guestOpen')], [0, 0]);
});

t.test(
  'a port that is opened ends no conversation; what is written to a closed one is dropped',
  async (t) => {
    const port = new FakeStream();
    const connection = new PortConnection(port);
    port.emit('guestOpen', true);
    await new Promise((done) => connection.write('greeting', done));
    port.emit('guestOpen', false);
    port.emit('guestOpen', false);
    await new Promise((done) => connection.write('to nobody', done));
    t.same(port.written, ['greeting']);
  },
);

t.test('output between two conversations is dropped', async (t) => {
  const port = new FakeStream();
  const first = new PortConnection(port);
  first.destroy();
  await once(first, 'close');
  port.push('noise');
  await new Promise((done) => setImmediate(done));
  const second = new PortConnection(port);
  port.push('hello');
  const [bytes] = await once(second, 'data');
  t.equal(bytes.toString(), 'hello');
});

t.test('no answer arrives while its question is being written', async (t) => {
  const port = new Duplex({
    read() {},
    write(chunk: Buffer, _encoding, done) {
      this.push(chunk);
      done();
    },
  });
  const connection = new PortConnection(port);
  let writing = false;
  let received = '';
  const all = new Promise<void>((resolve) => {
    connection.on('data', (chunk: Buffer) => {
      t.notOk(writing);
      received += chunk.toString();
      if (received.length === 1) connection.write('c');
      if (received === 'abc') resolve();
    });
  });
  for (const text of ['a', 'b']) {
    writing = true;
    connection.write(text);
    writing = false;
  }
  await all;
});
