/** An agent, and clients of a broker, that send anything, without end, and read nothing. */
import { Duplex } from 'node:stream';
import fc from 'fast-check';
import t from 'tap';
import { AgentBroker } from '../../../src/agent/broker.ts';
import { AgentClient } from '../../../src/agent/client.ts';
import { Output } from '../../../src/agent/command.ts';
import { Gathered } from '../../../src/agent/exec.ts';
import * as protocol from '../../../src/agent/protocol.ts';
import { PeerError } from '../../../src/host/errors.ts';
import { startAgent } from '../../support/rigs/agent.ts';

const { encodeCredit, encodeFrame, encodeHelloReply, encodeU32, STREAM_WINDOW } = protocol;

/** The other end of a client's stream: the test writes and reads it. */
class Peer extends Duplex {
  /** Frames that it took, by type. */
  readonly taken: protocol.Frame[] = [];
  nonce: Buffer | undefined;
  listens = true;
  readonly #decoder = new protocol.FrameDecoder();
  #done: (() => void) | undefined;

  constructor() {
    super({ highWaterMark: 16 * 1024 });
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    for (const frame of this.#decoder.push(chunk)) {
      this.taken.push(frame);
      if (frame.type === protocol.FRAME_HELLO) this.nonce = protocol.decodeHello(frame.payload);
    }
    if (this.listens) done();
    else this.#done = done;
  }

  /** Takes again what comes. */
  listen(): void {
    this.listens = true;
    this.#done?.();
  }

  say(...frames: Buffer[]): void {
    this.push(Buffer.concat(frames));
  }
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const frame = (type: number, payload?: Uint8Array): Buffer => encodeFrame(type, 1, payload);

/** A client whose agent has answered, and the channel 1 of a command that runs. */
async function running(): Promise<{ peer: Peer; client: AgentClient }> {
  const peer = new Peer();
  const client = new AgentClient(peer);
  while (peer.nonce === undefined) await settle();
  peer.say(encodeHelloReply(peer.nonce, protocol.AGENT_VERSION));
  await client.ready();
  return { peer, client };
}

t.test('15 MiB of greetings are looked at once, and few are answered', async (t) => {
  const peer = new Peer();
  const client = new AgentClient(peer, { helloRetryMs: 2 ** 30 });
  await settle();
  peer.listens = false;
  const greeting = encodeHelloReply(Buffer.alloc(8), protocol.AGENT_VERSION);
  const piece = Buffer.concat(Array.from({ length: 2000 }, () => greeting));
  const before = peer.taken.length;
  let most = 0;
  for (let sent = 0; sent < 15 * 2 ** 20; sent += piece.length) {
    peer.push(piece);
    await settle();
    most = Math.max(most, peer.writableLength);
  }
  t.equal(peer.taken.length, before + 1, 'one answer waits until it is taken');
  t.ok(most <= 2 * greeting.length, 'and nothing behind it');
  peer.listen();
  await settle();
  peer.say(encodeHelloReply(peer.nonce ?? Buffer.alloc(8), protocol.AGENT_VERSION));
  await client.ready();
  client.close();
});

t.test('an agent that takes nothing is greeted once', async (t) => {
  const peer = new Peer();
  peer.listens = false;
  const client = new AgentClient(peer, { helloRetryMs: 1 });
  for (let i = 0; i < 20; i++) await new Promise((resolve) => setTimeout(resolve, 1));
  const hello = protocol.encodeHello(Buffer.alloc(8));
  t.ok(peer.writableLength <= hello.length + protocol.resynchronise().length);
  client.close();
});

t.test('credit does not pile up before an agent that takes none', async (t) => {
  const { peer, client } = await running();
  const command = client.spawn(['flood']);
  await settle();
  peer.say(frame(protocol.FRAME_STARTED, encodeU32(1)));
  let bytes = 0;
  command.stdout.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
  });
  await settle();
  peer.listens = false;
  const output = frame(protocol.FRAME_STDOUT, Buffer.alloc(STREAM_WINDOW / 4));
  const many = 4000;
  for (let i = 0; i < many; i++) {
    peer.say(output);
    if (i % 64 === 0) await settle();
  }
  while (bytes < (many * STREAM_WINDOW) / 4) await settle();
  t.ok(peer.writableLength <= peer.writableHighWaterMark + 64);
  const before = peer.taken.length;
  peer.listen();
  while (peer.writableLength > 0) await settle();
  const credit = peer.taken.slice(before).filter(({ type }) => type === protocol.FRAME_CREDIT);
  const last = protocol.decodeCredit(credit.at(-1)?.payload ?? Buffer.alloc(5));
  t.same(last, { stream: 1, bytes: STREAM_WINDOW }, 'all credit is given in one frame');
  client.close();
});

t.test('input waits for an agent that gives credit and takes nothing', async (t) => {
  const { peer, client } = await running();
  const command = client.spawn(['cat']);
  await settle();
  peer.say(frame(protocol.FRAME_STARTED, encodeU32(1)));
  await command.started;
  peer.listens = false;
  const input = Buffer.from(Uint32Array.from({ length: 4 * 2 ** 20 }, (_, i) => i).buffer);
  command.stdin.end(input);
  for (let i = 0; i < 1000; i++) {
    peer.say(frame(protocol.FRAME_CREDIT, encodeCredit(0, 2 ** 32 - 1)));
    if (i % 64 === 0) await settle();
  }
  t.ok(peer.writableLength <= 4 * STREAM_WINDOW);
  peer.listen();
  const got = (): Buffer[] =>
    peer.taken.filter(({ type }) => type === protocol.FRAME_STDIN).map(({ payload }) => payload);
  while (got().at(-1)?.length !== 0) {
    peer.say(frame(protocol.FRAME_CREDIT, encodeCredit(0, STREAM_WINDOW)));
    await settle();
  }
  t.ok(Buffer.concat(got()).equals(input), 'and arrives whole');
  client.close();
});

for (const [what, frames] of [
  [
    'output after its end',
    [frame(protocol.FRAME_STDOUT), frame(protocol.FRAME_STDOUT, Buffer.alloc(1))],
  ],
  ['the end of a command that did not start', [frame(protocol.FRAME_EXIT, Buffer.alloc(8))]],
  ['credit for output', [frame(protocol.FRAME_CREDIT, encodeCredit(1, 5))]],
  ['credit for no stream', [frame(protocol.FRAME_CREDIT, encodeCredit(9, 5))]],
] as const) {
  t.test(`breaks the protocol: ${what}`, async (t) => {
    const { peer, client } = await running();
    const command = client.spawn(['true']);
    await settle();
    peer.say(...frames);
    t.equal((await client.closed).code, 'E_AGENT_PROTOCOL');
    await t.rejects(command.exit, { code: 'E_AGENT_PROTOCOL' });
    await t.rejects(command.started, { code: 'E_AGENT_PROTOCOL' });
    t.equal(peer.destroyed, true);
  });
}

t.test('whatever frames arrive, the client continues or reports why it ended', async (t) => {
  const types = [0, 1, 2, 3, 4, 5, 6, 17, 18, 18, 19, 20, 21, 32, 33, 255];
  const frame = fc.record({
    type: fc.constantFrom(...types),
    channel: fc.integer({ min: 0, max: 3 }),
    payload: fc.uint8Array({ maxLength: 12 }),
  });
  const codes = ['E_AGENT_PROTOCOL', 'E_AGENT_RESTARTED'];
  await fc.assert(
    fc.asyncProperty(fc.array(frame, { maxLength: 12 }), async (frames) => {
      const { peer, client } = await running();
      const commands = [client.spawn(['a']), client.spawn(['b'])];
      for (const command of commands) {
        command.stdout.resume();
        command.stdin.write('input');
      }
      peer.say(...frames.map(({ type, channel, payload }) => encodeFrame(type, channel, payload)));
      await settle();
      const alive = !client.ended;
      client.close();
      const { code } = await client.closed;
      await Promise.allSettled(commands.flatMap(({ started, exit }) => [started, exit]));
      return alive ? code === 'E_AGENT_CLOSED' : codes.includes(code);
    }),
  );
  t.pass('for all frames');
});

t.test('why a command did not start is one short line, whatever the agent sends', async (t) => {
  const { peer, client } = await running();
  const command = client.spawn(['true']);
  await settle();
  const words = Buffer.concat([encodeU32(2), Buffer.alloc(100_000, 'x')]);
  peer.say(frame(protocol.FRAME_ERROR, words));
  const error: Error = await command.exit.then(
    () => new Error('it started'),
    (error: Error) => error,
  );
  t.match(error.message, /^cannot run true in the guest: x+ \(ENOENT\)/);
  t.ok(error.message.length < 500);
  client.close();
});

t.test('bytes that come one by one take no more room than together', async (t) => {
  const output = new Output(() => {});
  for (let i = 0; i < STREAM_WINDOW; i++) output.feed(Buffer.from([i & 0xff]));
  output.finish();
  let pieces = 0;
  let at = 0;
  for await (const chunk of output as AsyncIterable<Buffer>) {
    pieces += 1;
    for (const byte of chunk) if (byte !== (at++ & 0xff)) t.fail(`byte ${at}`);
  }
  t.equal(at, STREAM_WINDOW);
  t.ok(pieces < 1000, `${pieces} pieces`);
});

t.test('a frame that comes byte by byte is kept as one', async (t) => {
  const decoder = new protocol.FrameDecoder();
  const payload = Buffer.from(Uint16Array.from({ length: 60_000 }, (_, i) => i).buffer);
  const frames: protocol.Frame[] = [];
  for (const byte of frame(protocol.FRAME_STDOUT, payload)) {
    frames.push(...decoder.push(Uint8Array.of(byte)));
  }
  t.equal(frames.length, 1);
  t.ok(frames[0]?.payload.equals(payload));
});

t.test('gathering has a limit', (t) => {
  const gather = (count: number, limit: number): { fits: boolean; bytes: Buffer } => {
    const gathered = new Gathered(limit);
    let fits = true;
    for (let i = 0; i < count; i++) fits = gathered.add(Buffer.from([i & 0xff])) && fits;
    return { fits, bytes: gathered.bytes };
  };
  const counted = Buffer.from(Array.from({ length: 300 }, (_, i) => i));
  t.same(gather(0, 0), { fits: true, bytes: Buffer.alloc(0) });
  t.same(gather(300, 300), { fits: true, bytes: counted });
  t.same(gather(301, 300), { fits: false, bytes: counted });
  t.equal(gather(10_000, Number.POSITIVE_INFINITY).bytes.length, 10_000);
  const whole = new Gathered(3);
  t.equal(whole.add(Buffer.from('abcdef')), false);
  t.equal(whole.bytes.toString(), 'abc', 'what fits is kept');
  t.end();
});

t.test('exec: a command that writes more than maxBuffer is killed', async (t) => {
  const { stream, ended } = await startAgent();
  const client = new AgentClient(stream);
  for (const script of ['trap "" TERM; while :; do echo yes; done', 'yes >&2']) {
    const maxBuffer = 100_000;
    await t.rejects(client.exec(['sh', '-c', script], { maxBuffer }), {
      name: 'UsageError',
      code: 'E_MAX_BUFFER',
      message: /^sh was killed: it wrote more than 100000 bytes to its standard (output|error); /,
    });
  }
  t.equal((await client.exec(['true'], { maxBuffer: 0 })).exitCode, 0);
  await t.rejects(client.exec(['echo'], { maxBuffer: 0 }), { code: 'E_MAX_BUFFER' });
  const exact = await client.exec(['head', '-c', '5000', '/dev/zero'], { maxBuffer: 5000 });
  t.equal(exact.stdout.length, 5000);
  for (const maxBuffer of [-1, Number.NaN]) {
    await t.rejects(client.exec(['true'], { maxBuffer }), { code: 'E_MAX_BUFFER' });
  }
  await t.rejects(client.exec(['yes']), { code: 'E_MAX_BUFFER' }, 'also by default');
  client.close();
  await ended;
});

const STOPPED = new PeerError('E_STOPPED', 'the machine was stopped on request');

/** A broker of the real agent with a client that the test plays. */
async function shared(): Promise<{ agent: AgentClient; peer: Peer }> {
  const { stream } = await startAgent();
  const agent = new AgentClient(stream);
  await agent.ready();
  const peer = new Peer();
  void new AgentBroker(agent, STOPPED).serve(peer);
  return { agent, peer };
}

const exec = (channel: number, ...argv: string[]): Buffer =>
  encodeFrame(protocol.FRAME_EXEC, channel, protocol.encodeExec({ argv, env: [], cwd: '' }));

t.test('a client that reads nothing is not served further; others are', async (t) => {
  const { agent, peer } = await shared();
  peer.listens = false;
  peer.say(exec(1, 'yes'));
  const credit = encodeFrame(protocol.FRAME_CREDIT, 1, encodeCredit(1, STREAM_WINDOW));
  const credits = Buffer.concat(Array.from({ length: 100 }, () => credit));
  let most = 0;
  for (let i = 0; i < 300; i++) {
    if (peer.readableLength < 2 ** 20) peer.say(credits);
    t.equal((await agent.exec(['echo', 'others'])).stdout.toString(), 'others\n');
    most = Math.max(most, peer.writableLength);
  }
  // Its window, what it was sent before it was found to take nothing, and the headers.
  t.ok(most <= STREAM_WINDOW + 64 * 1024, `${most} bytes wait`);
  t.ok(peer.readableLength > 0, 'its credit is not taken');
  peer.destroy();
  agent.close();
});

for (const [what, frames] of [
  ["a type that is the agent's", [encodeFrame(protocol.FRAME_STDOUT, 1, Buffer.alloc(1))]],
  ['an unknown type', [encodeFrame(99, 1, Buffer.alloc(1))]],
  ['a command on a channel in use', [exec(1, 'sleep', '1000'), exec(1, 'sleep', '1000')]],
  ['a frame too long', [Buffer.alloc(protocol.FRAME_HEADER, 0xff)]],
] as const) {
  t.test(`a client is disconnected: ${what}`, async (t) => {
    const { agent, peer } = await shared();
    const gone = new Promise<void>((resolve) => peer.once('close', () => resolve()));
    peer.on('error', () => {});
    peer.say(...frames);
    await gone;
    t.equal((await agent.exec(['echo', 'still'])).stdout.toString(), 'still\n');
    agent.close();
  });
}

t.test('a client has a limit of commands', async (t) => {
  const { agent, peer } = await shared();
  const count = protocol.COMMANDS_MAX + 44;
  for (let channel = 1; channel <= count; channel++) peer.say(exec(channel, 'sleep', '1000'));
  const framesOf = (type: number): number => peer.taken.filter((one) => one.type === type).length;
  const errors = (): number => framesOf(protocol.FRAME_ERROR);
  while (framesOf(protocol.FRAME_STARTED) + errors() < count) await settle();
  t.equal(errors(), 44);
  peer.destroy();
  // What was left is killed: then there is room for another.
  for (;;) {
    const end = await agent.exec(['echo', 'room']).catch(() => undefined);
    if (end?.stdout.toString() === 'room\n') break;
  }
  agent.close();
});
