/** A thread that adds to a shared word, not atomically, with the register lock held. */
import { workerData } from 'node:worker_threads';
import { SharedState } from '../../src/state/shared-state.ts';

const { buffer, rounds } = workerData as { buffer: SharedArrayBuffer; rounds: number };
const state = new SharedState(buffer);
const [total, holders, started] = [state.words(1), state.words(1), state.words(2)];

// Both start together, so that they do contend.
if (Atomics.add(started, 0, 1) === 1) {
  Atomics.store(started, 1, 1);
  Atomics.notify(started, 1);
} else {
  Atomics.wait(started, 1, 0);
}
for (let i = 0; i < rounds; i++) {
  state.lock.acquire();
  if (Atomics.add(holders, 0, 1) !== 0) throw new Error('two threads hold the lock');
  total[0] = (total[0] as number) + 1;
  Atomics.sub(holders, 0, 1);
  state.lock.release();
}
