/** A command's streams over a carrier that answers within the call, as a machine's own port does. */
import t from 'tap';
import { Command } from '../../../src/agent/command.ts';
import {
  encodeCredit,
  encodeU32,
  FRAME_CREDIT,
  FRAME_STARTED,
  FRAME_STDIN,
  STREAM_WINDOW,
} from '../../../src/agent/protocol.ts';

const credit = (bytes: number) => ({
  type: FRAME_CREDIT,
  channel: 1,
  payload: encodeCredit(0, bytes),
});

t.test('credit that comes within a send: each byte is sent once, in order', async (t) => {
  const sent: Buffer[] = [];
  const command: Command = new Command('wc', (type, payload) => {
    if (type !== FRAME_STDIN) return true;
    sent.push(Buffer.from(payload));
    if (payload.length > 0) command.receive(credit(payload.length));
    return true;
  });
  command.receive({ type: FRAME_STARTED, channel: 1, payload: encodeU32(1) });
  const input = Buffer.from(Uint32Array.from({ length: STREAM_WINDOW / 2 }, (_, i) => i).buffer);
  for (let at = 0; at < input.length; at += 65536) {
    const taken = new Promise<void>((resolve, reject) => {
      command.stdin.write(input.subarray(at, at + 65536), (error) =>
        error ? reject(error) : resolve(),
      );
    });
    await taken;
  }
  command.stdin.end();
  await new Promise((resolve) => command.stdin.once('finish', resolve));
  t.equal(sent.at(-1)?.length, 0, 'the end is sent');
  t.ok(Buffer.concat(sent).equals(input));
});
