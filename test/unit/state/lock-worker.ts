/** Threads that take the register lock: one that adds under it, and one that waits on it. */
import { parentPort, workerData } from 'node:worker_threads';
import { SharedState } from '../../../src/state/shared-state.ts';

const { buffer, rounds } = workerData as { buffer: SharedArrayBuffer; rounds?: number };
const state = new SharedState(buffer);

/** Adds to a shared word, not atomically, with the lock held. */
function add(times: number): void {
  const [total, holders, started] = [state.words(1), state.words(1), state.words(2)];
  // Both start together, so that they do contend.
  if (Atomics.add(started, 0, 1) === 1) {
    Atomics.store(started, 1, 1);
    Atomics.notify(started, 1);
  } else {
    Atomics.wait(started, 1, 0);
  }
  for (let i = 0; i < times; i++) {
    state.lock.acquire();
    if (Atomics.add(holders, 0, 1) !== 0) throw new Error('two threads hold the lock');
    total[0] = (total[0] as number) + 1;
    Atomics.sub(holders, 0, 1);
    state.lock.release();
  }
}

/** Waits, without the lock, until a shared word is not 7. */
function wait(): void {
  const words = state.words(2);
  state.lock.with(() => {
    words[0] = 1;
    parentPort?.postMessage('waiting');
    state.lock.waitWhile(words, 1, 7);
    parentPort?.postMessage({ held: state.lock.word[0] !== 0, value: words[1] });
  });
}

if (rounds === undefined) wait();
else add(rounds);
