/** A log that guests cannot fill. */
import t from 'tap';
import { LogLimit } from '../../../src/host/log-limit.ts';

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

t.test('the same line is said once, and the rest are counted', async (t) => {
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

t.test('what happens again later is said again, with what was left out', async (t) => {
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
