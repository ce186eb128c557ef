/** The guest agent's wire protocol, by its description in src/agent/protocol.ts. */
import fc from 'fast-check';
import t from 'tap';
import * as protocol from '../../../src/agent/protocol.ts';

const payloads = fc.uint8Array({ maxLength: 300 });
const frames = fc.record({
  type: fc.integer({ min: 1, max: 255 }),
  channel: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
  payload: payloads,
});

/** The same bytes in pieces of the sizes given, over and over. */
function pieces(bytes: Buffer, sizes: readonly number[]): Buffer[] {
  const found: Buffer[] = [];
  for (let at = 0, i = 0; at < bytes.length; i += 1) {
    const size = sizes[i % sizes.length] ?? 1;
    found.push(bytes.subarray(at, at + size));
    at += size;
  }
  return found;
}

const sizes = fc.array(fc.integer({ min: 1, max: 64 }), { minLength: 1, maxLength: 8 });

t.test(
  'frames come back as they were sent, however the stream is cut, padding aside',
  async (t) => {
    fc.assert(
      fc.property(fc.array(frames, { maxLength: 8 }), sizes, fc.nat(20), (sent, cuts, padding) => {
        const bytes = Buffer.concat([
          Buffer.alloc(padding),
          ...sent.map(({ type, channel, payload }) => protocol.encodeFrame(type, channel, payload)),
          Buffer.alloc(padding),
        ]);
        const decoder = new protocol.FrameDecoder();
        const got = pieces(bytes, cuts).flatMap((piece) => decoder.push(piece));
        const plain = got.map((frame) => ({ ...frame, payload: new Uint8Array(frame.payload) }));
        return JSON.stringify(plain) === JSON.stringify(sent);
      }),
    );
    t.pass('for all frames and cuts');
  },
);

t.test('a frame longer than FRAME_MAX is refused', async (t) => {
  const head = protocol.encodeFrame(protocol.FRAME_STDOUT, 1);
  head.writeUInt32LE(protocol.FRAME_MAX + 1, 5);
  t.throws(() => new protocol.FrameDecoder().push(head), { code: 'E_AGENT_PROTOCOL' });
  head.writeUInt32LE(protocol.FRAME_MAX, 5);
  t.same(new protocol.FrameDecoder().push(head), [], 'one of FRAME_MAX is waited for');
});

t.test('EXEC reads back', async (t) => {
  const text = fc.string({ unit: 'grapheme', maxLength: 20 }).filter((s) => !s.includes('\0'));
  fc.assert(
    fc.property(
      fc.array(text, { minLength: 1, maxLength: 5 }),
      fc.array(text, { maxLength: 5 }),
      text,
      fc.option(fc.record({ columns: fc.nat(65535), rows: fc.nat(65535) }), { nil: undefined }),
      (argv, env, cwd, tty) => {
        const request = { argv, env, cwd, ...(tty === undefined ? {} : { tty }) };
        const read = protocol.decodeExec(protocol.encodeExec(request));
        return JSON.stringify(read) === JSON.stringify(request);
      },
    ),
  );
  t.pass('for all requests');
  const good = protocol.encodeExec({ argv: ['a'], env: [], cwd: '/' });
  t.throws(() => protocol.decodeExec(good.subarray(0, -1)), { code: 'E_AGENT_PROTOCOL' });
  t.throws(() => protocol.decodeExec(Buffer.alloc(9)), { code: 'E_AGENT_PROTOCOL' });
});

t.test('HELLO is found behind any bytes, however the stream is cut', async (t) => {
  const nonce = Buffer.from('12345678');
  fc.assert(
    fc.property(payloads, payloads, sizes, (before, after, cuts) => {
      const hello = protocol.encodeHelloReply(nonce, 7);
      const scanner = new protocol.HelloScanner(nonce);
      const all = pieces(Buffer.concat([before, hello, after]), cuts);
      for (const [i, piece] of all.entries()) {
        const { answer } = scanner.push(piece);
        if (answer === undefined) continue;
        const rest = Buffer.concat([answer.rest, ...all.slice(i + 1)]);
        return answer.version === 7 && rest.equals(Buffer.from(after));
      }
      return false;
    }),
  );
  t.pass('for all bytes and cuts');
});

t.test('the host and the agent distinguish HELLO from other frames', async (t) => {
  const nonce = Buffer.from('abcdefgh');
  const [frame] = new protocol.FrameDecoder().push(protocol.encodeHello(nonce));
  t.same(frame && protocol.decodeHello(frame.payload), nonce);
  t.equal(protocol.decodeHello(Buffer.alloc(16)), undefined);
  t.equal(protocol.decodeHello(Buffer.from('nvmmagnt')), undefined);
});
