/** Lines on standard error: printable, and bounded when unread. */
import { Writable } from 'node:stream';
import t from 'tap';
import { Messages } from '../../../src/cli/terminal/messages.ts';
import { Sink } from '../../support/fakes/machine.ts';

t.test('a line has its origin, and no escape sequences', async (t) => {
  const sink = new Sink();
  const messages = new Messages(sink);
  messages.say('net0: \x1b[31mred\x1b[0m\nand \x9b more');
  messages.show('\x1b]0;title\x07');
  t.equal(sink.text, 'nodevmm: net0: \\x1b[31mred\\x1b[0m\nand \\x9b more\n\\x1b]0;title\\x07\n');
});

t.test('a raw terminal gets its carriage returned', async (t) => {
  const sink = new Sink();
  let raw = true;
  const messages = new Messages(sink, () => raw);
  messages.say('one\ntwo');
  raw = false;
  messages.say('three');
  t.equal(sink.text, 'nodevmm: one\r\ntwo\r\nnodevmm: three\n');
});

t.test('unread lines are eventually dropped, counted and reported', async (t) => {
  const taken: (() => void)[] = [];
  let text = '';
  const stuck = new Writable({
    decodeStrings: false,
    write: (chunk: string, _encoding, done) => {
      text += chunk;
      taken.push(done);
    },
  });
  const messages = new Messages(stuck);
  for (let i = 0; i < 10_000; i++) messages.say(`${i}`.padEnd(100, '.'));
  t.ok(stuck.writableLength < 300 * 1024, `${stuck.writableLength} bytes wait`);
  while (stuck.writableLength > 0) {
    taken.shift()?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  messages.say('read again');
  while (stuck.writableLength > 0) {
    taken.shift()?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  const shown = text.match(/^nodevmm: \d+\.+$/gm)?.length ?? 0;
  t.match(text, new RegExp(`nodevmm: ${10_000 - shown} unread messages were dropped`));
  t.ok(text.endsWith('nodevmm: read again\n'));
});
