/** Parts of the state buffer, in which something comes and goes by itself. */
import t from 'tap';
import { SharedState } from '../../../src/state/shared-state.ts';

t.test('a part is handed out from its start, each time', async (t) => {
  const state = new SharedState(SharedState.allocate(1024));
  const before = state.words(1);
  const part = { bytes: state.bytes(256), lock: state.lock };
  const after = state.words(1);
  for (let round = 1; round < 3; round++) {
    const inside = new SharedState(state.buffer, part);
    t.equal(inside.lock, state.lock, 'under the lock of all registers');
    const words = inside.words(2);
    t.equal(words.byteOffset, part.bytes.byteOffset);
    words.fill(round);
    t.same([...part.bytes.subarray(0, 8)], [round, 0, 0, 0, round, 0, 0, 0]);
  }
  t.same([before[0], after[0]], [0, 0]);
});

t.test('nothing is handed out past its end', async (t) => {
  const state = new SharedState(SharedState.allocate(1024));
  const part = { bytes: state.bytes(128), lock: state.lock };
  const inside = new SharedState(state.buffer, part);
  inside.bytes(100);
  t.throws(() => inside.bytes(1), { code: 'E_INTERNAL' });
});
