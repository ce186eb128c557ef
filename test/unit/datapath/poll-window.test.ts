/** How long a thread polls: docs/datapaths.md. */
import t from 'tap';
import { LONGEST_WINDOW, PollWindow, SHORTEST_WINDOW } from '../../../src/datapath/poll-window.ts';

/** Lets work come when the window's owner has slept for a while. @returns whether polling begins, and how long it lasts */
function wake(window: PollWindow, at: number, away: number): readonly [boolean, number] {
  window.worked(at);
  if (window.polls) window.idle(Number.POSITIVE_INFINITY);
  const now = at + away;
  window.woke(now);
  const begins = window.worked(now);
  if (!begins) return [false, 0];
  let step = 1;
  while (!window.idle(now + step / 1000)) step++;
  return [true, step / 1000];
}

t.test('off: never; always: from the start to the end', async (t) => {
  const window = new PollWindow();
  t.equal(window.polls, false);
  window.open('off');
  window.woke(1);
  t.equal(window.worked(1), false);
  t.equal(window.polls, false);
  window.open('always');
  t.equal(window.polls, true);
  t.equal(window.worked(1), false, 'kicks are suppressed already');
  t.equal(window.idle(1e9), false);
  t.equal(window.polls, true);
  window.close();
  t.equal(window.polls, false);
});

t.test(
  'adaptive: short absences make it grow up to a limit, long ones shrink it to nothing',
  async (t) => {
    const window = new PollWindow();
    window.open('adaptive');
    t.equal(window.polls, false, 'sleeps until there is a reason to poll');
    const lengths: number[] = [];
    for (let i = 0; i < 7; i++) lengths.push(wake(window, i, LONGEST_WINDOW / 2)[1]);
    // Each is seen at the first step beyond it.
    t.strictSame(
      lengths.map((length) => Math.round(1000 * length) - 1),
      [10, 20, 40, 80, 160, 200, 200],
    );
    const shrinking: number[] = [];
    for (let i = 0; i < 6; i++) shrinking.push(wake(window, 100 + 10 * i, 2 * LONGEST_WINDOW)[1]);
    t.strictSame(
      shrinking.map((length) => Math.max(0, Math.round(1000 * length) - 1)),
      [100, 50, 25, 12, 0, 0],
    );
    t.equal(wake(window, 200, SHORTEST_WINDOW)[0], true, 'and it grows again');
  },
);

t.test('work keeps it open, and is not a reason to change its length', async (t) => {
  const window = new PollWindow();
  window.open('adaptive');
  window.worked(0);
  window.woke(0.1);
  t.equal(window.worked(0.1), true);
  for (let now = 0.1; now < 1; now += SHORTEST_WINDOW / 2) {
    t.equal(window.worked(now), false, 'polls already');
    t.equal(window.idle(now + SHORTEST_WINDOW / 4), false);
  }
  t.equal(window.idle(1 + SHORTEST_WINDOW), true);
  t.equal(window.polls, false);
});
