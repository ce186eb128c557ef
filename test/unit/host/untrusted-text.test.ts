/** Text that others had a part in: nothing of it is left for a terminal to obey. */
import fc from 'fast-check';
import t from 'tap';
import { LogLimit, printable } from '../../../src/host/untrusted-text.ts';

t.test('what a terminal would obey is shown', async (t) => {
  for (const [text, shown] of [
    ['\x1b]0;title\x07', '\\x1b]0;title\\x07'],
    ['\x1b[2J\x1b[H', '\\x1b[2J\\x1b[H'],
    ['\x9b2J', '\\x9b2J'],
    ['over\rwritten', 'over\\x0dwritten'],
    ['a\x00b\x08c\x7f', 'a\\x00b\\x08c\\x7f'],
    ['\u202egnp.exe', '\\u{202e}gnp.exe'],
    ['\u2066\u2069\u200b\ufeff', '\\u{2066}\\u{2069}\\u{200b}\\u{feff}'],
    ['line\u2028para\u2029', 'line\\u{2028}para\\u{2029}'],
    ['half \ud800 a pair', 'half \\u{d800} a pair'],
    ['\u{e0001}', '\\u{e0001}'],
  ] as const) {
    t.equal(printable(text), shown);
  }
});

t.test('what is just text stays', async (t) => {
  for (const text of ['plain', 'two\nlines\tand a tab', 'größer – 日本語 🙂', '', '\\x1b']) {
    t.equal(printable(text), text);
  }
  t.equal(printable('dos\r\nlines\r\r\n'), 'dos\nlines\n');
});

t.test('whatever it gets, and when it is applied again', async () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const shown = printable(text);
      return printable(shown) === shown && !/[^\P{Cc}\n\t]|\p{Cf}/u.test(shown);
    }),
  );
});

// A log that guests cannot fill.

class Log {
  now = 0;
  readonly lines: string[] = [];
  readonly limit: LogLimit;

  constructor(repeats = 1) {
    this.limit = new LogLimit(
      (text) => this.lines.push(text),
      repeats,
      () => this.now,
    );
  }
}

t.test('a repeated line is shown once, and the rest are counted', async (t) => {
  const log = new Log();
  for (let i = 0; i < 10_000; i++) log.limit.say('it broke');
  t.same(log.lines, ['it broke']);
  log.limit.flush();
  log.limit.flush();
  t.same(log.lines, ['it broke', '9999 more lines like these']);
});

t.test('lines that differ are bounded, too', async (t) => {
  const log = new Log();
  for (let i = 0; i < 10_000; i++) log.limit.say(`broken ${i}`);
  t.equal(log.lines.length, 8);
});

t.test('lines that come by turns may come some times', async (t) => {
  const log = new Log(3);
  for (let i = 0; i < 10_000; i++) log.limit.say((i & 1) === 0 ? 'connected' : 'disconnected');
  t.same(
    log.lines,
    [0, 1, 2].flatMap(() => ['connected', 'disconnected']),
  );
});

t.test('a line that recurs later is shown again, with the count of those left out', async (t) => {
  const log = new Log();
  log.limit.say('it broke');
  log.limit.say('it broke');
  log.now = 59_999;
  log.limit.say('it broke');
  t.equal(log.lines.length, 1);
  log.now = 60_000;
  log.limit.say('it broke');
  t.same(log.lines, ['it broke', '2 more lines like these', 'it broke']);
  log.limit.say('it broke');
  log.limit.flush();
  t.equal(log.lines.at(-1), '1 more line like these');
});
