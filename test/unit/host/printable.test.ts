/** Text that others had a part in: nothing of it is left for a terminal to obey. */
import fc from 'fast-check';
import t from 'tap';
import { printable } from '../../../src/host/printable.ts';

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
