/** A thread that waits, with the register lock let go, for a shared word to be another than 7. */
import { parentPort, workerData } from 'node:worker_threads';
import { SharedState } from '../../src/state/shared-state.ts';

const { buffer } = workerData as { buffer: SharedArrayBuffer };
const state = new SharedState(buffer);
const words = state.words(2);
state.lock.with(() => {
  words[0] = 1;
  parentPort?.postMessage('waiting');
  state.lock.waitWhile(words, 1, 7);
  parentPort?.postMessage({ held: state.lock.word[0] !== 0, value: words[1] });
});
