import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import { RegisterLock } from '../../../src/state/register-lock.ts';
import { SharedState } from '../../../src/state/shared-state.ts';

const ROUNDS = 100_000;

t.test('two threads never hold it together, and none waits for ever', async (t) => {
  const buffer = SharedState.allocate(0x1000);
  const worker = new URL('../../support/lock-worker.js', import.meta.url);
  const workerData = { buffer, rounds: ROUNDS };
  const ends = [0, 1].map(() => once(new Worker(worker, { workerData, execArgv: [] }), 'exit'));
  t.same(await Promise.all(ends), [[0], [0]]);
  const total = new SharedState(buffer).words(1);
  t.equal(total[0], 2 * ROUNDS);
});

t.test('with() gives back what the step returns, and lets go when it throws', async (t) => {
  const word = new Int32Array(new SharedArrayBuffer(4));
  const lock = new RegisterLock(word);
  t.equal(
    lock.with(() => {
      t.not(word[0], 0);
      return 5;
    }),
    5,
  );
  t.equal(word[0], 0);
  t.throws(() =>
    lock.with(() => {
      throw new Error('in the step');
    }),
  );
  t.equal(word[0], 0);
});

t.test('waitWhile lets go of the lock until another thread has changed the word', async (t) => {
  const buffer = SharedState.allocate(0x1000);
  const state = new SharedState(buffer);
  const words = state.words(2);
  words[1] = 7;
  const waiter = new Worker(new URL('../../support/waiting-worker.js', import.meta.url), {
    workerData: { buffer },
    execArgv: [],
  });
  await once(waiter, 'message');
  // It told so with the lock held: whoever has the lock now has it from a thread that waits.
  state.lock.with(() => {
    t.equal(words[0], 1, 'it waits');
    words[0] = 2;
    Atomics.notify(words, 1);
  });
  state.lock.with(() => {
    words[1] = 8;
    Atomics.notify(words, 1);
  });
  t.same(await once(waiter, 'message'), [{ held: true, value: 8 }]);
  await once(waiter, 'exit');
});
